"""Example configurations: one short file per experiment."""
