"""The paper, figure by figure: a module has a figure's table, its picture, its measures and claims.

`scales.py` says how large each study is, `studies.py` makes its sweep, `study_runs.py` runs passes
over its points, `reproduction.py` puts figures and claims together into a report; `registry.py`
lists the figures. Imports sweeps, passes and reporting; only entry points import it.
"""
