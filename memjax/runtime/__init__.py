"""What surrounds a computation: devices, processes, files, signals, progress.

The mesh, many processes, checkpoints (orbax) with checksums, metrics, Parquet tables, the run
folder with its lock and its atomic writes, SIGTERM, throughput. Imports config and errors; knows
nothing of data, networks or training.
"""
