"""Is my treatment working? From a table of daily severity to effects, estimates for each patient, charts, a report.

``study`` reads the table by its ``rows``, ``patient_means`` is the default inference, ``mixed`` holds the mixed models
beside it, ``days`` the autocorrelation of days, ``patients`` the shrunken estimates, ``diagnostics`` what may be wrong;
``analysis`` puts them together. ``coverage`` measures by simulation whether the intervals keep their promise;
``severity`` makes the table from the scores of images.
"""
