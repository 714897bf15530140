"""What every classifier must hold once trust was fitted: the whole answer, and what withdraws it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForImageClassification

from hub_models import InferenceError, LesionConfigError, PriorError, TrustNotFittedError
from hub_models.infer_lesion import dropout_layers

KEYS = {
    "predicted",
    "probabilities",
    "p_malignant",
    "predictive_entropy",
    "aleatoric",
    "epistemic",
    "decision",
    "malignancy",
    "band",
    "prediction_set",
    "ood_score",
    "is_ood",
    "abstain",
    "reason",
    "message",
}
C = 4


def fitted(model: Any, *, ood_threshold: float = 1e9, low: float | None = 0.99, inference: str = "plain") -> Any:
    """The model with all of trust, as a fit leaves it: a gate with matrices, sets that never hold the last class."""
    classes = len(model.config.labels)
    bias, prior = ([0.3, -0.1, 0.0, -0.2][:classes], [0.1, 0.6, 0.1, 0.2] if classes == C else [1 / classes] * classes)
    fitted_on = {"split": "calibration", "n": 100, "method": "test", "date": "2026-01-01"}
    generator = torch.Generator().manual_seed(5)
    buffers = {
        "mean": torch.randn(model.feature_dim, generator=generator),
        "projection": torch.randn(model.feature_dim, 3, generator=generator),
        "class_means": torch.randn(classes, 3, generator=generator),
    }
    trust = {
        "temperature": {"kind": "bias_corrected", "value": 1.7, "bias": bias, **fitted_on},
        "prior": {"value": prior, **fitted_on},
        "ood": {
            "detector": "mahalanobis",
            "threshold": ood_threshold,
            "settings": {},
            "buffers": {name: list(value.shape) for name, value in buffers.items()},
            **fitted_on,
        },
        "conformal": {
            **fitted_on,
            "method": "lac",
            "alpha": 0.1,
            "qhat": [1.0, None, *[1.0] * (classes - 3), -1.0],
            "settings": {},
        },
        "bands": {
            "low": {"threshold": low, "risk": 0.05, "confidence": 0.9, **fitted_on},
            "moderate": {"threshold": None if low is None else 1.0, "risk": 0.2, "confidence": 0.9, **fitted_on},
        },
        "policy": {"max_set_size": 3},
        "fitted_for": {"inference": inference, "preprocessing": {"do_hair_removal": False}},
    }
    model.set_trust(trust, buffers)
    return model


class TrustTester:
    """The part of the classifier tester about trust; what it needs of it is declared first."""

    members: ClassVar[int | None]
    model: Any
    inputs: Any

    def test_what_was_not_measured_is_not_stated(self) -> None:
        model = self.model()
        with pytest.raises(TrustNotFittedError, match=r"no fitted temperature, prior, ood, conformal, bands: fit them"):
            model.predict(**self.inputs(1))
        with pytest.raises(TrustNotFittedError, match="how frequent the classes were"):
            model.predict(**self.inputs(1), trust=False, prior=[0.25] * C)
        (row,) = model.predict(**self.inputs(1), trust=False)
        assert set(row) == KEYS
        assert row["reason"] == "trust_not_asked"
        assert row["message"].startswith(model.config.label_names[row["predicted"]])
        assert (row["decision"], row["malignancy"]) == ("most_probable", None)
        assert [row[key] for key in ("band", "prediction_set", "ood_score", "is_ood", "abstain")] == [None] * 5

    def test_the_whole_answer(self) -> None:
        model, inputs = fitted(self.model()), self.inputs(3)
        with torch.no_grad():
            output = model(**inputs)
        biased = output.raw_logits.double() / 1.7 + torch.tensor([0.3, -0.1, 0.0, -0.2], dtype=torch.float64)
        probs = functional.softmax(biased, -1)
        probs = probs if self.members is None else probs.mean(1)
        buffers = {name: value.double() for name, value in model.trust.named_buffers()}
        projected = (functional.normalize(output.features.double(), dim=-1) - buffers["mean"]) @ buffers["projection"]
        distance = (projected[:, None] - buffers["class_means"]).square().sum(-1).amin(-1)
        rows = model.predict(**inputs)
        json.dumps(rows)
        for row, p, score in zip(rows, probs, distance, strict=True):
            assert set(row) == KEYS
            assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-5)
            assert row["ood_score"] == pytest.approx(float(score), rel=1e-3)
            # LAC at quantile 1 lets every class in, at -1 none.
            assert row["prediction_set"] == list(row["probabilities"])[:3]
            assert row["band"] == ("low" if 1 - float(p.max()) <= 0.99 else "moderate")
            assert (row["is_ood"], row["abstain"], row["reason"]) == (False, False, "answered")
            assert f"{row['band'].capitalize()} uncertainty: at most " in row["message"]
            assert all(model.config.label_names[name] in row["message"] for name in row["prediction_set"])
            assert model.config.label_names[row["predicted"]] in row["message"]

    def test_an_ood_image_is_declined(self) -> None:
        model = fitted(self.model(), ood_threshold=-1.0)
        for row in model.predict(**self.inputs(2)):
            assert (row["is_ood"], row["abstain"], row["reason"]) == (True, True, "out_of_distribution")
            assert row["band"] is row["prediction_set"] is None
        model = fitted(self.model(), low=None)
        assert {row["reason"] for row in model.predict(**self.inputs(2))} == {"high_uncertainty"}

    def test_another_prior_shifts_probabilities_and_withdraws_the_promises(self) -> None:
        model, inputs = fitted(self.model()), self.inputs(2)
        shares, home = (0.4, 0.2, 0.2, 0.2), (0.1, 0.6, 0.1, 0.2)
        prior = dict(zip(("mel", "nv", "akiec", "bkl"), shares, strict=True))
        before, after = model.predict(**inputs), model.predict(**inputs, prior=prior)
        for old, new in zip(before, after, strict=True):
            odds = [p * to / at for p, to, at in zip(old["probabilities"].values(), shares, home, strict=True)]
            assert list(new["probabilities"].values()) == pytest.approx([o / sum(odds) for o in odds], abs=1e-6)
            assert new["band"] is new["prediction_set"] is None
            assert (new["reason"], new["abstain"]) == ("other_prior", False)
            assert new["ood_score"] == old["ood_score"]
        with pytest.raises(PriorError, match=r"sums to 1\.2"):
            model.predict(**inputs, prior=[0.3] * C)

    def test_other_preprocessing_withdraws_the_promises(self) -> None:
        model = fitted(self.model())
        (row,) = model.predict(**self.inputs(1), prepared_as={"do_hair_removal": True})
        assert (row["reason"], row["band"]) == ("other_preprocessing", None)
        (row,) = model.predict(**self.inputs(1), prepared_as={"do_colour_constancy": True})
        assert row["reason"] == "other_preprocessing", "it was not known at the fit, so it was off"
        (row,) = model.predict(**self.inputs(1), prepared_as={"resize_mode": "crop"})
        assert row["reason"] == "other_preprocessing", "likewise, so images were squashed"
        (row,) = model.predict(**self.inputs(1), prepared_as={"resize_mode": "squash"})
        assert row["reason"] != "other_preprocessing"
        (row,) = model.predict(**self.inputs(1), prepared_as={"do_hair_removal": None})
        assert row["reason"] == "answered"

    def test_mc_dropout_adds_up_and_can_be_repeated(self) -> None:
        model, inputs = fitted(self.model(dropout=0.4)).train(), self.inputs(2)
        state = torch.get_rng_state()
        way = "mc_dropout" if model.can_sample_head() else "mc_dropout_full"
        once = model.predict(**inputs, inference=way, samples=5, seed=3)
        assert model.training
        assert torch.equal(torch.get_rng_state(), state)
        assert once == model.predict(**inputs, inference=way, samples=5, seed=3)
        assert once != model.predict(**inputs, inference=way, samples=5, seed=4)
        for row in once:
            assert row["predictive_entropy"] == pytest.approx(row["aleatoric"] + row["epistemic"], abs=1e-5)
            assert row["epistemic"] > 0
            assert (row["reason"], row["band"]) == ("other_inference", None)

    def test_ways_that_there_are_not_are_named(self) -> None:
        model = fitted(self.model(dropout=0.0))
        with pytest.raises(InferenceError, match="'guess'; choose one of plain, tta"):
            model.predict(**self.inputs(1), inference="guess")
        if not any(dropout_layers(model)):
            with pytest.raises(InferenceError, match="0 layers of dropout"):
                model.predict(**self.inputs(1), inference="mc_dropout")

    def test_views_are_flips_and_quarter_turns(self) -> None:
        model, inputs = fitted(self.model(), inference="tta"), self.inputs(2)
        if "pixel_values" not in model.input_names:
            with pytest.raises(InferenceError, match="reads no image"):
                model.predict(**inputs, inference="tta")
            return
        pixels = inputs["pixel_values"]
        views = [torch.rot90(pixels, k, (2, 3)) for k in range(4)]
        views += [view.flip(3) for view in views]
        with torch.no_grad():
            raw = torch.stack([model(**{**inputs, "pixel_values": view}).raw_logits for view in views], dim=1)
        biased = raw.double() / 1.7 + torch.tensor([0.3, -0.1, 0.0, -0.2], dtype=torch.float64)
        probs = functional.softmax(biased, -1).flatten(1, -2).mean(1)
        rows = model.predict(**inputs, inference="tta")
        for row, p in zip(rows, probs, strict=True):
            assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-4)
            assert row["reason"] == "answered"  # it was fitted for this
        assert {row["reason"] for row in model.predict(**inputs)} == {"other_inference"}

    def test_trust_travels_with_the_weights(self, tmp_path: Path) -> None:
        model, inputs = fitted(self.model()), self.inputs(2)
        model.save_pretrained(tmp_path, weights_dtype="float16")
        stored = load_file(tmp_path / "model.safetensors")
        assert {name: stored[name].dtype for name in stored if name.startswith("trust.")} == dict.fromkeys(
            ("trust.mean", "trust.projection", "trust.class_means"), torch.float32
        )
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        for name, value in model.trust.named_buffers():
            assert torch.equal(loaded.trust.get_buffer(name), value)
        assert [set(row) for row in loaded.predict(**inputs)] == [KEYS] * 2

    def test_impossible_trust_is_refused_and_changes_nothing(self) -> None:
        model = fitted(self.model())
        before = model.config.trust
        for change in (
            {"temperature": {"value": -1.0}},
            {"prior": {"value": [0.5, 0.5]}},
            {"ood": {"threshold": float("nan")}},
            {"conformal": {"qhat": [0.1]}},
            {"bands": {"low": {"threshold": "all"}}},
        ):
            with pytest.raises(LesionConfigError, match=f"trust..{next(iter(change))}"):
                model.set_trust({**before, **change})
            assert model.config.trust is before
