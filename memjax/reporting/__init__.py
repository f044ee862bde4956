"""Figures, claims and reports, drawn from tables alone.

`style.py` and `figures.py`: one look, one colour for one thing; `claim.py` and `measurement.py`:
what a claim is and how it is judged; the report as Markdown and as one HTML file; a run's learning
curves. Imports runtime and `analysis/statistics.py`; knows no network, so that anything can be
drawn again without one.
"""
