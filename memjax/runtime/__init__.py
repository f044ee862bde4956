"""Devices, checkpoints, metrics and the run folder."""
