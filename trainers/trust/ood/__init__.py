"""Out-of-distribution gate: images that the model should not be asked about, told by its features and logits.

One file a detector, each with ``fit`` and ``score``; ``registry`` names them, ``held_out`` scores calibration images by
statistics that never saw them, ``gate`` chooses a detector and sets its threshold. They are applied by
``hub_models.ood_lesion``, which ships with every model.
"""
