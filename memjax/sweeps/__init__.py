"""Sweeps: many runs as one job, the alike ones trained side by side in one program.

Points from a Python file, grouping of those that one program can train, what they cost, the plan
over tasks and devices, one table of results. It has no training code: a group is handed to
`training`. Imports training and what lies below it.
"""
