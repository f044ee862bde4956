"""Example sweeps: one short file per sweep, each a function that yields points."""
