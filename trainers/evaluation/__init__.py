"""Evaluation: pure functions from predictions to the numbers and charts of a report.

``report.evaluate`` measures a split, ``tables`` writes it as text, ``figures.draw_all`` draws it, ``trainer_metrics``
feeds the Trainer. Beneath them stand ``discrimination``, ``calibration``, ``intervals`` and ``subgroups``: plain
functions of arrays that may be used alone. The ``modules`` folder wraps some of them for ``evaluate.load(path)``.
"""
