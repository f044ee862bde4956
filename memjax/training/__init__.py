"""One engine: a run is a group of one point, a sweep trains groups of many.

`members.py` who is trained, `program.py` what is compiled, `step.py` one update, `outcomes.py` and
`dynamics.py` what is recorded of each example, `group.py` a group on the devices, `loop.py` the
only loop, `saves.py` and `point_folder.py` what is on disk, `setup.py` from a config to all of
these. Imports data, models and runtime; of analysis the loss and the LASS step alone.
"""
