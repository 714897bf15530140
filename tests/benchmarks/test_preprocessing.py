"""What a step before the resize costs, as a ratio to one forward pass: no test here knows a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from datasets_scripts.phantom import draw
from hub_models import MobileNetForLesionClassification, MobileNetLesionConfig
from hub_models.crop_lesion import lesion_box
from hub_models.hair_lesion import remove_hair
from hub_models.preprocess_lesion import constant_colour
from trainers.evaluation.preprocessing import with_drawn_hair


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of this process for one call, the least of five rounds, after one to warm up."""
    work()
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - started) / times)
    return min(rounds)


def test_the_steps_cost_a_few_forward_passes_at_most() -> None:
    names = {"a": "a", "b": "b"}
    config = MobileNetLesionConfig(id2label={0: "a", 1: "b"}, label_names=names, image_size=176)
    model = MobileNetForLesionClassification(config).eval()
    one = torch.randn(1, 3, 176, 176)
    image, truth = with_drawn_hair(np.asarray(draw("nv", 3, (600, 450), with_hairs=False).image), 0)
    assert truth.any()
    with torch.inference_mode():
        forward = seconds(lambda: model(pixel_values=one))
    steps = (remove_hair, lesion_box, constant_colour)
    ratios = {step.__name__: seconds(partial(step, image)) / forward for step in steps}
    print("steps at 600 x 450 / one MobileNetV2 forward at 176 px:", {k: round(v, 2) for k, v in ratios.items()})
    assert ratios["remove_hair"] < 5
    assert ratios["lesion_box"] < 1
    assert ratios["constant_colour"] < 1
