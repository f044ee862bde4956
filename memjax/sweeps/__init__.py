"""Sweeps: many runs as one job, the alike ones trained side by side in one program."""
