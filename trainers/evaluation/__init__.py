"""Evaluation: pure functions from predictions to the numbers and charts of a report.

``report.evaluate`` evaluates a split, ``tables`` writes it as text, ``figures.draw_all`` draws it, ``trainer_metrics``
feeds the Trainer. The functions of arrays are in ``trainers.metrics``; the ``modules`` folder wraps some of them for
``evaluate.load(path)``.
"""
