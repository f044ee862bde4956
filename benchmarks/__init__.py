"""Ratios to peers and to physical limits: `python -m benchmarks` runs them and writes the page.

Each module prints a table of its own and records its rows (`benchmarks.rows`); none is imported by
memjax or by a test.
"""
