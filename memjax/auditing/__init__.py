"""Which labels of a data set are wrong: evidence of an ensemble, calibrated on planted flips.

evidence -> scores -> noise (a copy with planted flips) -> calibration -> issues -> report. Builds on
runs (`memjax.loading`) and on data sources; nothing else of memjax imports it but `memjax.audit`.
"""
