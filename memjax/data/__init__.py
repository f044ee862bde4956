"""Data sources, corruption and batches."""
