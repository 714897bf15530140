"""What every classifier must hold when it shows where it looked; of a model without images, that it says so."""

from __future__ import annotations

import re
import threading
from typing import Any, ClassVar

import pytest
import torch
from lesion_trust_tester import fitted
from transformers import BatchFeature

from hub_models import ExplanationError, PixelShapeError


def left_behind(model: Any) -> dict[str, Any]:
    """All that an explanation must leave as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": sum(len(getattr(module, name)) for module in model.modules() for name in hooks),
        "modes": [module.training for module in model.modules()],
        "asks": [value.requires_grad for value in model.parameters()],
        "grads": [None if value.grad is None else value.grad.clone().tolist() for value in model.parameters()],
        "buffers": {name: value.tolist() for name, value in model.named_buffers()},
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "attention": model.config._attn_implementation,
        "random": torch.get_rng_state().tolist(),
        "attributes": set(vars(model)),
    }


class ExplainTester:
    """The part of the classifier tester about explanations; what it needs of it is declared first."""

    image_size: ClassVar[int]
    members: ClassVar[int | None]
    model: Any
    inputs: Any
    # What the model offers; none where it reads no image.
    explanations: ClassVar[tuple[str, ...]] = ("grad_cam", "hires_cam")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Of a model that reads no image only what it offers is tested: the rest are no tests of it."""
        super().__init_subclass__(**kwargs)
        if not cls.explanations:
            for name in vars(ExplainTester):
                if name.startswith("test_") and name != "test_it_offers_what_it_has":
                    setattr(cls, name, None)

    def test_it_offers_what_it_has(self) -> None:
        model = self.model()
        assert tuple(model.explanation_methods()) == self.explanations
        having = f"choose one of {', '.join(self.explanations)}." if self.explanations else "it reads no image"
        for missing in {"lime", "attention_rollout", *(() if self.explanations else ("grad_cam",))}:
            if missing not in self.explanations:
                with pytest.raises(ExplanationError, match=f"method is '{missing}'.*{re.escape(having)}"):
                    model.explain(**self.inputs(2), method=missing)

    @pytest.mark.parametrize("batch", [1, 5])
    def test_heat_maps_lie_on_the_image(self, batch: int) -> None:
        model, inputs = fitted(self.model()), self.inputs(batch)
        with torch.no_grad():
            predicted = model(**inputs).logits.argmax(1)
        lit = 0
        for method in self.explanations:
            explanation = model.explain(**inputs, method=method)
            assert explanation.method == method
            assert torch.equal(explanation.target, predicted)
            assert explanation.heat_maps.shape == (batch, self.image_size, self.image_size)
            assert explanation.heat_maps.dtype == torch.float32
            assert explanation.heat_maps.min() >= 0
            assert explanation.heat_maps.max() <= 1
            assert not explanation.heat_maps.requires_grad
            lit += int(explanation.heat_maps.any())
            if self.members is None:
                assert explanation.spread is None
                assert set(explanation.heat_maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
            else:
                assert explanation.spread.shape == explanation.heat_maps.shape
                assert explanation.spread.max() <= 0.5
                assert explanation.spread.any() == (self.members > 1)
        assert lit, "not one map shows anything"

    def test_an_answer_brings_its_heat_map_from_the_same_pass(self) -> None:
        model, inputs = fitted(self.model()), self.inputs(2)
        plain = model.predict(**inputs)
        for method in self.explanations:
            passes: list[int] = []
            handle = model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
            answers = model.predict(**inputs, explain=method)
            handle.remove()
            assert len(passes) == 1
            named = [answer["predicted"] for answer in answers]
            expected = model.explain(**inputs, method=method, target=named).heat_maps
            for row, (answer, before) in enumerate(zip(answers, plain, strict=True)):
                torch.testing.assert_close(answer.pop("heat_map"), expected[row], rtol=1e-3, atol=1e-4)
                assert answer.keys() == before.keys()
                assert [answer[name] for name in ("predicted", "reason", "band", "prediction_set", "is_ood")] == [
                    before[name] for name in ("predicted", "reason", "band", "prediction_set", "is_ood")
                ]
                assert answer["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
        with pytest.raises(ExplanationError, match="inference is 'tta'"):
            model.predict(**inputs, explain=self.explanations[0], inference="tta")
        with pytest.raises(ExplanationError, match="method is 'lime'"):
            model.predict(**inputs, explain="lime")

    def test_each_image_and_each_class_is_explained_by_itself(self) -> None:
        model, inputs = self.model(), self.inputs(3)
        for method in self.explanations:
            together = model.explain(**inputs, method=method, target=["nv", 0, "bkl"])
            assert together.target.tolist() == [1, 0, 3]
            for row, target in enumerate((1, "mel", torch.tensor([3]))):
                alone = {name: value[row : row + 1] for name, value in inputs.items()}
                explanation = model.explain(**alone, method=method, target=target)
                torch.testing.assert_close(explanation.heat_maps[0], together.heat_maps[row], rtol=1e-3, atol=1e-4)
        method = self.explanations[0]
        maps = torch.stack([model.explain(**inputs, method=method, target=c).heat_maps for c in range(4)])
        assert not torch.allclose(maps[0], maps[1:].mean(0), atol=0.05), "no class differs from the others"

    def test_an_explanation_leaves_nothing_behind(self) -> None:
        model, inputs = self.model(dropout=0.3), self.inputs(2)
        quiet = {method: model.explain(**inputs, method=method).heat_maps for method in self.explanations}
        parameters = list(model.parameters())
        parameters[0].grad = torch.ones_like(parameters[0])
        parameters[1].requires_grad_(False)
        model.train()
        model.dropout_like = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
        model.dropout_like.training = False  # a mode of its own
        for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with context():
                before = left_behind(model)
                for method, expected in quiet.items():
                    made_there = {name: value.clone() for name, value in inputs.items()}
                    assert torch.equal(model.explain(**made_there, method=method).heat_maps, expected)
                    with pytest.raises(ExplanationError):
                        model.explain(**inputs, method=method, target=99)
                assert left_behind(model) == before

    def test_frozen_weights_and_wished_for_gradients_change_no_map(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        for method in self.explanations:
            expected = model.requires_grad_(True).explain(**inputs, method=method, target=1).heat_maps
            assert torch.equal(
                model.requires_grad_(False).explain(**inputs, method=method, target=1).heat_maps, expected
            )
            wishing = {name: value.clone().requires_grad_() for name, value in inputs.items()}
            assert torch.equal(model.explain(**wishing, method=method, target=1).heat_maps, expected)
            assert all(value.grad is None for value in wishing.values())

    def test_bfloat16_shows_the_same_places(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        for method in self.explanations:
            expected = model.float().explain(**inputs, method=method, target=1).heat_maps
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mixed = model.explain(**inputs, method=method, target=1).heat_maps
            whole = model.bfloat16().explain(**inputs, method=method, target=1).heat_maps
            for got in (mixed, whole):
                assert got.dtype == torch.float32
                assert (got - expected).abs().mean() < 0.08

    def test_another_image_in_the_batch_changes_nothing(self) -> None:
        model, ours, theirs = self.model(), self.inputs(2), self.inputs(3, seed=9)
        with torch.no_grad():
            logits = model(**theirs).logits
        expected = {method: model.explain(**ours, method=method).heat_maps for method in self.explanations}
        answers: list[torch.Tensor] = []

        def answer() -> None:
            with torch.inference_mode():
                answers.append(model(**theirs).logits)

        def interrupted(*args: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=answer)
                other.start()
                other.join()
            return classify(*args)

        classify, model.classify = model.classify, interrupted
        for method, heat in expected.items():
            assert torch.equal(model.explain(**ours, method=method).heat_maps, heat)
            torch.testing.assert_close(answers.pop(), logits)
        assert answers == []

    def test_two_threads_explain_a_model_in_train_mode(self) -> None:
        """One is in the middle of its pass while the other ends: batch norm must not learn, nor dropout fall."""
        model, inputs = self.model(dropout=0.3), self.inputs(2)
        method = self.explanations[0]
        expected = model.explain(**inputs, method=method).heat_maps
        model.train()
        before = left_behind(model)
        seen: list[bool] = []

        def interrupted(*args: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=lambda: model.explain(**self.inputs(3, seed=9), method=method))
                other.start()
                other.join()
                seen.append(any(module.training for module in model.modules()))
            return classify(*args)

        classify, model.classify = model.classify, interrupted
        try:
            assert torch.equal(model.explain(**inputs, method=method).heat_maps, expected)
        finally:
            del model.classify
        assert seen == [False], "the other one put it back into train mode too early"
        assert left_behind(model) == before

    def test_features_may_be_given_whole_or_as_pixels(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        for method in self.explanations:
            expected = model.explain(**inputs, method=method).heat_maps
            labelled = BatchFeature({**inputs, "labels": torch.tensor([0, 1])})
            assert torch.equal(model.explain(labelled, method=method).heat_maps, expected)
            rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
            assert torch.equal(model.explain(inputs["pixel_values"], method=method, **rest).heat_maps, expected)

    def test_a_file_that_is_no_image_is_one_clear_error(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        pixels = inputs["pixel_values"]
        torn = torch.where(torch.arange(pixels.shape[-1]) == 3, torch.nan, pixels)
        wrong = {
            "pixel_values is a ndarray, not a tensor; .*return_tensors='pt'": pixels.numpy(),
            "pixel_values has no row": pixels[:0],
            rf"pixel_values has {2 * 3 * pixels.shape[-2]} values that are no finite number": torn,
        }
        for method in self.explanations:
            for explanation, value in wrong.items():
                with pytest.raises(ExplanationError, match=explanation):
                    model.explain(**{**inputs, "pixel_values": value}, method=method)

    def test_images_with_nothing_in_them_and_small_ones(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        size = self.image_size
        black, grey = torch.zeros(2, 3, size, size), torch.full((2, 3, size, size), 0.37)
        oblong = torch.randn(2, 3, size, size + 32)
        for pixels in (black, grey, black - 2.1, torch.randn(2, 3, 32, 32), oblong):
            for method in self.explanations:
                heat = model.explain(**{**inputs, "pixel_values": pixels}, method=method).heat_maps
                assert heat.shape == (2, *pixels.shape[2:])
                assert torch.isfinite(heat).all()
                assert heat.min() >= 0
                assert heat.max() <= 1

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            (4, "target is 4; give an index from 0 to 3, or one of mel, nv, akiec, bkl."),
            (-1, "target is -1; give an index from 0 to 3"),
            ("melanoma", "target is 'melanoma'; give"),
            (1.0, "target is 1.0; give"),
            (True, "target is True; give"),
            ([0, 7], "target is 7; give"),
            (torch.tensor([0.5, 1.0]), "target is 0.5; give"),
            ([0], "target has 1 classes for 2 images; give one an image."),
        ],
    )
    def test_classes_that_there_are_not_are_named(self, target: Any, says: str) -> None:
        model = self.model()
        for method in self.explanations:
            with pytest.raises(ExplanationError, match=re.escape(says)):
                model.explain(**self.inputs(2), target=target, method=method)

    def test_images_of_another_shape_are_named(self) -> None:
        model = self.model()
        for shape in ((3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3), (64,)):
            with pytest.raises(PixelShapeError, match=re.escape(str(shape))):
                model.explain(**{**self.inputs(2), "pixel_values": torch.zeros(shape)})
        with pytest.raises(ExplanationError, match="pixel_values is None; give"):
            model.explain(**{**self.inputs(2), "pixel_values": None})
