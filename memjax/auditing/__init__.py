"""Which labels of a data set are wrong: evidence of an ensemble, calibrated on planted flips.

evidence -> scores -> noise (a copy with planted flips) -> calibration -> issues -> page. Builds on
runs (`memjax.loading`) and data sources; nothing of memjax but `memjax.audit` imports it.
"""
