"""What MC dropout on the head costs beside the one forward pass that it starts from, as a ratio within one run."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from hub_models import MobileNetForLesionClassification, MobileNetLesionConfig

SIZE, BATCH, SAMPLES, ROUNDS = 160, 48, 30, 7


@pytest.fixture(scope="module")
def model() -> MobileNetForLesionClassification:
    labels = {i: f"class {i}" for i in range(8)}
    names = {name: name for name in labels.values()}
    config = MobileNetLesionConfig(id2label=labels, label_names=names, image_size=SIZE, backbone="mobilenetv2_100")
    return MobileNetForLesionClassification(config).eval()


def least_seconds(*works: Callable[[], object]) -> list[float]:
    """CPU seconds of this process for one call of each, the least of several rounds in turn."""
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for work in works:
            started = time.process_time()
            work()
            times.append(time.process_time() - started)
        rounds.append(times)
    return [min(times) for times in zip(*rounds, strict=True)]


def test_thirty_samples_of_the_head_take_under_a_tenth_of_the_forward_they_start_from(
    model: MobileNetForLesionClassification,
) -> None:
    inputs = {"pixel_values": torch.randn(BATCH, 3, SIZE, SIZE)}
    calls: list[int] = []
    watch = model.backbone.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        assert model.infer(inputs, "mc_dropout", samples=SAMPLES).raw_logits.shape == (BATCH, SAMPLES, 8)
        assert calls == [1]  # so what it costs is one forward and what follows
        watch.remove()
        features = model.encode(inputs["pixel_values"])

        def sample() -> None:
            model.answer(features, model.sample_head(features, SAMPLES, 0).flatten(1, 2))

        forward, head = least_seconds(lambda: model.infer(inputs, "plain"), sample)
    ratio = (forward + head) / forward
    print(f"{SAMPLES} samples of the head / one forward, {BATCH} images at {SIZE} px: {ratio:.4f}")
    assert ratio < 1.1
