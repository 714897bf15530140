"""What every classifier of the suite must hold; a classifier's own test file is one subclass of a few lines.

A subclass gives its two classes and the smallest configuration that is still its architecture. Where it takes other
inputs than images, it overrides :meth:`ClassifierTester.inputs`, ``bad_inputs`` and ``processor``; where it has members
or another head, ``members`` and ``head``; where it learns more slowly, ``learning_rate``; where it explains itself in
other ways, ``explanations``. Nothing here depends on the tested model.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lesion_explain_tester import ExplainTester
from lesion_shipping_tester import LABELS, ShippingTester
from lesion_trust_tester import TrustTester, fitted
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from hub_models import LesionConfigError, LesionImageProcessor, PixelShapeError, WeightsDtypeError

GROUPS = {"mel": "malignant", "nv": "benign", "akiec": "premalignant", "bkl": "benign"}


class Copier:
    """Copies of a model, in a third of the time that ``copy.deepcopy`` takes: its structure is pickled once."""

    def __init__(self, model: Any) -> None:
        self.tensors = list({id(one): one for one in (*model.parameters(), *model.buffers())}.values())
        place = {id(one): number for number, one in enumerate(self.tensors)}
        structure = io.BytesIO()
        pickler = pickle.Pickler(structure)
        pickler.persistent_id = lambda one: place.get(id(one))  # type: ignore[method-assign]
        pickler.dump(model)
        self.structure = structure.getvalue()

    def copy(self) -> Any:
        tensors = [copy.deepcopy(one) for one in self.tensors]
        unpickler = pickle.Unpickler(io.BytesIO(self.structure))
        unpickler.persistent_load = tensors.__getitem__  # type: ignore[method-assign]
        return unpickler.load()


class ClassifierTester(ShippingTester, TrustTester, ExplainTester):
    """Generic tests of one classifier; subclass it, name the class ``Test...`` and set the class attributes."""

    config_class: ClassVar[Any]
    model_class: ClassVar[Any]
    config_kwargs: ClassVar[dict[str, Any]] = {}
    image_size: ClassVar[int] = 64
    # M where raw logits are (N, M, C), None where they are (N, C).
    members: ClassVar[int | None] = None
    # The linear layer that gives the logits (one of them, where there are several).
    head: ClassVar[str] = "head"
    # Whether there is one last map or one list of tokens; not of several members, nor where no image is read.
    has_maps: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-3
    # Name of the class and changes -> what copies the model, built once; each test gets a copy.
    built: ClassVar[dict[tuple[str, str], Copier]] = {}

    # ------------------------------------------------------------- making

    def config(self, **changes: Any) -> Any:
        values = {
            "id2label": dict(enumerate(LABELS)),
            "label_names": {label: f"long {label}" for label in LABELS},
            "label_groups": GROUPS,
            "image_size": self.image_size,
            **self.config_kwargs,
            **changes,
        }
        return self.config_class(**values)

    def model(self, **changes: Any) -> Any:
        """A random model in eval mode, whose statistics of normalisation are no longer the initial ones."""
        key = type(self).__name__, repr(sorted(changes.items()))
        if key not in self.built:
            torch.manual_seed(0)
            model = self.model_class(self.config(**changes))
            model.train()
            with torch.no_grad():
                for step in range(3):
                    model(**self.inputs(4, seed=step))
            self.built[key] = Copier(model.eval())
        torch.manual_seed(0)
        return self.built[key].copy()

    def inputs(self, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(batch, 3, self.image_size, self.image_size, generator=generator)}

    def bad_inputs(self) -> list[tuple[dict[str, torch.Tensor], type[Exception], str]]:
        """Inputs that forward must refuse, with the error and what it must say."""
        shapes = [(3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3)]
        return [({"pixel_values": torch.zeros(shape)}, PixelShapeError, str(shape)) for shape in shapes]

    def processor(self) -> LesionImageProcessor:
        """The image processor that goes with the model."""
        return LesionImageProcessor(size=self.image_size)

    def probabilities(self, raw_logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """What the answer must be, written down once more: (N, C), the mean over members where there are some."""
        probs = functional.softmax(raw_logits.double() / temperature, dim=-1)
        return probs if self.members is None else probs.mean(dim=1)

    # ------------------------------------------------------------ forward

    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_output_shapes(self, batch: int) -> None:
        model = self.model()
        with torch.no_grad():
            output = model(**self.inputs(batch))
        assert output.loss is None
        assert output.logits.shape == (batch, len(LABELS))
        by_member = (batch, len(LABELS)) if self.members is None else (batch, self.members, len(LABELS))
        assert output.raw_logits.shape == by_member
        assert output.features.shape == (batch, model.feature_dim)
        assert output.logits.dtype == output.raw_logits.dtype == torch.float32
        assert torch.isfinite(output.logits).all()

    def test_a_softmax_of_the_logits_is_calibrated_in_eval_mode_only(self) -> None:
        model = self.with_temperature(self.model(), 2.5)
        inputs = self.inputs(3)
        with torch.no_grad():
            in_eval = model(**inputs)
            in_train = model.train()(**inputs)
        softmax = functional.softmax(in_eval.logits.double(), -1)
        torch.testing.assert_close(softmax, self.probabilities(in_eval.raw_logits, 2.5), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(softmax, self.probabilities(in_eval.raw_logits, 1.0), rtol=1e-3)
        softmax = functional.softmax(in_train.logits.double(), -1)
        torch.testing.assert_close(softmax, self.probabilities(in_train.raw_logits, 1.0), rtol=1e-5, atol=1e-6)

    def test_loss_is_the_cross_entropy_at_temperature_one(self) -> None:
        model = self.with_temperature(self.model(), 3.0)
        labels = torch.tensor([0, 3, 1])
        output = model(**self.inputs(3), labels=labels)
        by_hand = -self.probabilities(output.raw_logits, 1.0)[torch.arange(3), labels].log().mean()
        torch.testing.assert_close(output.loss.double(), by_hand, rtol=1e-5, atol=1e-6)

    def test_tuple_holds_the_same_fields(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        with torch.no_grad():
            output = model(**inputs)
            as_tuple = model(**inputs, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) == (3 if self.members is None else 6)
        for got, expected in zip(as_tuple, output.values(), strict=True):
            assert torch.equal(got, expected)

    # ----------------------------------------------------------- features

    def test_auto_model_gives_the_features_and_loses_nothing(self, tmp_path: Path) -> None:
        model, inputs = self.model().eval(), self.inputs(2)
        model.save_pretrained(tmp_path / "a")
        features = AutoModel.from_pretrained(tmp_path / "a").eval()
        features.save_pretrained(tmp_path / "b")
        again = AutoModelForImageClassification.from_pretrained(tmp_path / "b").eval()
        for folder in ("a", "b"):
            auto_map = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
            stem = self.model_class.__name__.removesuffix("ForLesionClassification")
            assert {auto: name.rpartition(".")[2] for auto, name in auto_map.items()} == {
                "AutoConfig": self.config_class.__name__,
                "AutoModel": f"{stem}LesionModel",
                "AutoModelForImageClassification": self.model_class.__name__,
            }
        with torch.no_grad():
            expected, output = model(**inputs), features(**inputs, output_hidden_states=True)
            assert torch.equal(again(**inputs).logits, expected.logits)
            as_tuple = features(**inputs, return_dict=False)
        assert torch.equal(output.pooler_output, expected.features)
        assert as_tuple[-1].shape == output.pooler_output.shape
        assert "logits" not in output
        if self.has_maps:
            assert len(output.last_hidden_state) == 2
            assert output.last_hidden_state.ndim in (3, 4)
            assert torch.equal(as_tuple[0], output.last_hidden_state)
        else:
            assert output.last_hidden_state is None
        assert features(**inputs).hidden_states is None

    def test_hidden_states_are_given_where_they_are_wanted(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        with torch.no_grad():
            plain, full = model(**inputs), model(**inputs, output_hidden_states=True)
        assert plain.hidden_states is None
        assert len(full.hidden_states) > 1
        assert all(len(state) == 2 and torch.isfinite(state).all() for state in full.hidden_states)
        assert torch.equal(full.logits, plain.logits)
        model.config.output_hidden_states = True
        with torch.no_grad():
            by_config, off = model(**inputs), model(**inputs, output_hidden_states=False)
        assert len(by_config.hidden_states) == len(full.hidden_states)
        assert off.hidden_states is None
        assert not any(module._forward_hooks for module in model.modules())

    # ------------------------------------------------------ other labels

    @pytest.mark.parametrize("more", [{}, {"label_names": {}}])
    def test_other_labels_drop_what_was_stored_of_the_old_ones_with_one_warning(
        self, tmp_path: Path, more: dict[str, Any]
    ) -> None:
        """As the fine-tuning tutorials call it: the indices are text."""
        fitted(self.model()).save_pretrained(tmp_path / "old")
        new = {"id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"x": "0", "y": "1", "z": "2"}, **more}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = AutoModelForImageClassification.from_pretrained(
                tmp_path / "old", num_labels=3, ignore_mismatched_sizes=True, **new
            )
        [warning] = [str(one.message) for one in caught if "dropped" in str(one.message)]
        for name in ("label_groups", "trust", "mel", "x, y, z"):
            assert name in warning
        assert ("label_names" in warning) == (not more)
        config = model.config
        assert (config.labels, config.id2label, config.label2id) == (
            ["x", "y", "z"],
            {0: "x", 1: "y", 2: "z"},
            {"x": 0, "y": 1, "z": 2},
        )
        assert (config.label_names, config.label_groups, config.trust) == ({}, {}, {})
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss = model(**self.inputs(3), labels=torch.tensor([0, 1, 2])).loss
        loss.backward()
        optimizer.step()
        model.eval().save_pretrained(tmp_path / "new")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            again = AutoModelForImageClassification.from_pretrained(tmp_path / "new").eval()
        with torch.no_grad():
            logits = model(**self.inputs(2)).logits
            assert logits.shape == (2, 3)
            assert torch.isfinite(logits).all()
            assert torch.equal(again(**self.inputs(2)).logits, logits)
        assert again.config.labels == ["x", "y", "z"]

    def test_the_same_labels_drop_nothing(self, tmp_path: Path) -> None:
        model = fitted(self.model())
        model.save_pretrained(tmp_path)
        same = {str(index): label for index, label in enumerate(LABELS)}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            again = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=len(LABELS), id2label=same)
        assert again.config.trust == model.config.trust
        assert again.config.label_groups == GROUPS

    def test_uncertainty_adds_up(self) -> None:
        model = self.with_temperature(self.model(), 1.4)
        with torch.no_grad():
            output = model(**self.inputs(5))
        if self.members is None:
            assert output.predictive_entropy is output.aleatoric is output.epistemic is None
            return
        probs = functional.softmax(output.raw_logits.double() / 1.4, dim=-1)
        expected = -(probs * probs.log()).sum(-1).mean(1)
        torch.testing.assert_close(output.aleatoric.double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(output.predictive_entropy, output.aleatoric + output.epistemic)
        assert (output.epistemic >= 0).all()
        assert (output.epistemic > 0).any() == (self.members > 1)

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        model, inputs = self.model(), self.inputs(4)
        with torch.no_grad():
            together = model(**inputs).logits
            alone = torch.cat([model(**{k: v[i : i + 1] for k, v in inputs.items()}).logits for i in range(4)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_gradient_reaches_every_parameter(self) -> None:
        model = self.model().train()
        model(**self.inputs(4), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        assert trained, "nothing is trained"
        assert [name for name, value in trained.items() if value.grad is None or not value.grad.any()] == []

    def test_training_steps_lower_the_loss(self) -> None:
        model = self.model(dropout=0.0).train()
        inputs, labels = self.inputs(8), torch.arange(8) % len(LABELS)
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        losses = []
        for _ in range(8):
            loss = model(**inputs, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_runs_in_another_floating_type(self, dtype: torch.dtype) -> None:
        model, inputs = self.model(), self.inputs(2)
        with torch.no_grad():
            expected = model(**inputs).logits
            output = model.to(dtype)(**inputs)
        assert output.logits.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        torch.testing.assert_close(
            output.logits.float(), expected, rtol=0.1 if dtype is torch.bfloat16 else 1e-4, atol=0.1
        )

    def test_channels_last_gives_the_same_logits(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        with torch.no_grad():
            expected = model(**inputs).logits
            model = model.to(memory_format=torch.channels_last)
            images = {k: v.to(memory_format=torch.channels_last) for k, v in inputs.items() if v.ndim == 4}
            got = model(**{**inputs, **images}).logits
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_a_deep_copy_gives_the_same_logits(self) -> None:
        model, inputs = self.model(), self.inputs(2)
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(model)(**inputs).logits, model(**inputs).logits)

    def test_wrong_inputs_are_named(self) -> None:
        model = self.model()
        for wrong, error, says in self.bad_inputs():
            with pytest.raises(error, match=re.escape(says)):
                model(**{**self.inputs(2), **wrong})

    # ------------------------------------------------------------ predict

    def test_predict_says_it_in_words(self) -> None:
        model = self.with_temperature(self.model(), 1.7).train()
        rows = model.predict(**self.inputs(3), labels=torch.zeros(3), trust=False)
        assert model.training, "predict must leave the mode as it was"
        with torch.no_grad():
            probs = functional.softmax(model.eval()(**self.inputs(3)).logits.double(), -1)
        assert len(rows) == 3
        for row, expected in zip(rows, probs, strict=True):
            parts = {"aleatoric", "epistemic"}
            assert all((row[part] is None) == (self.members is None) for part in parts)
            assert list(row["probabilities"]) == list(LABELS)
            assert list(row["probabilities"].values()) == pytest.approx(expected.tolist())
            assert row["predicted"] == LABELS[int(expected.argmax())]
            assert row["p_malignant"] == pytest.approx(float(expected[0] + expected[2]))
            assert row["predictive_entropy"] == pytest.approx(float(-(expected * expected.log()).sum()))
        json.dumps(rows)

    def test_predict_without_groups_knows_no_p_malignant(self) -> None:
        assert self.model(label_groups={}).predict(**self.inputs(1), trust=False)[0]["p_malignant"] is None

    # ------------------------------------------------- weights and config

    def test_the_constructor_keeps_the_backbones_own_initial_values_and_connects_nowhere(
        self, monkeypatch: Any
    ) -> None:
        def refuse(*_: Any) -> None:
            raise AssertionError("a constructor opened a connection")

        monkeypatch.setattr("socket.socket.connect", refuse)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        torch.manual_seed(3)
        model = self.model_class(self.config())
        monkeypatch.setattr(self.model_class, "post_init", lambda _: None)
        torch.manual_seed(3)
        untouched = self.model_class(self.config())
        for part, alone in zip(model.pretrained_parts(), untouched.pretrained_parts(), strict=True):
            got = part.state_dict()
            for name, value in alone.state_dict().items():
                assert torch.equal(value, got[name]), name

    def test_random_start_is_stated(self) -> None:
        assert self.model_class.from_backbone(self.config()).config.initialised_from == "random"

    def test_other_labels_of_a_loaded_config_drop_names_groups_and_trust(self, tmp_path: Path) -> None:
        model = fitted(self.model())
        model.save_pretrained(tmp_path)
        for name, value in {"num_labels": 3, "id2label": {0: "x", 1: "y", 2: "z"}}.items():
            config = AutoConfig.from_pretrained(tmp_path)
            with pytest.warns(UserWarning, match="label_names, label_groups, trust of the old labels were dropped"):
                setattr(config, name, value)
            again = AutoModelForImageClassification.from_pretrained(
                tmp_path, config=config, ignore_mismatched_sizes=True
            ).eval()
            assert (again.config.label_names, again.config.label_groups, again.config.trust) == ({}, {}, {})
            with torch.no_grad():
                assert again(**self.inputs(2)).logits.shape == (2, 3)

    def test_the_same_labels_set_again_drop_nothing(self) -> None:
        config = fitted(self.model()).config
        before = config.to_dict()
        config.num_labels = len(LABELS)
        config.id2label = {str(index): label for index, label in enumerate(LABELS)}
        config.check()
        assert config.to_dict() == before

    def test_inconsistent_config_is_refused_by_the_model(self) -> None:
        config = self.config()
        config.label_names = {"x": "X"}
        with pytest.raises(LesionConfigError, match="label_names does not fit"):
            self.model_class(config)

    def test_round_trip_gives_the_same_model(self, tmp_path: Path) -> None:
        model = self.with_temperature(self.model(), 1.3)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert not loaded.training
        state = loaded.state_dict()
        assert set(state) == set(model.state_dict())
        for name, value in model.state_dict().items():
            assert torch.equal(state[name], value), name
        for (name, value), (_, got) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
            assert torch.equal(value, got), f"buffer {name}"
        with torch.no_grad():
            assert torch.equal(loaded(**self.inputs(2)).logits, model(**self.inputs(2)).logits)
        assert loaded.config.softmax_temperature == 1.3
        assert loaded.config.labels == list(LABELS)
        assert loaded.config.label_groups == GROUPS
        assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()

    def test_what_a_checkpoint_lacks_is_drawn_not_left_as_memory(self, tmp_path: Path) -> None:
        model = self.model()
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        lacking = {k: v for k, v in state.items() if not k.startswith(f"{self.head}.")}
        assert len(lacking) == len(state) - 2
        save_file(lacking, tmp_path / "model.safetensors")
        head = self.model_class.from_pretrained(tmp_path).get_submodule(self.head)
        assert 0.01 < head.weight.std().item() < 0.04
        assert not head.bias.any()

    def test_half_precision_storage(self, tmp_path: Path) -> None:
        model = self.with_temperature(self.model(), 1.3)
        model.save_pretrained(tmp_path / "full")
        model.save_pretrained(tmp_path / "half", weights_dtype="float16")
        assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float32"
        stored = load_file(tmp_path / "half" / "model.safetensors")
        parameters = {name for name, _ in model.named_parameters()}
        for name, tensor in stored.items():
            if tensor.is_floating_point():
                assert tensor.dtype == (torch.float16 if name in parameters else torch.float32), name
        full, half = (tmp_path / part / "model.safetensors" for part in ("full", "half"))
        assert half.stat().st_size < 0.6 * full.stat().st_size

        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "half")
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}
        rounded = copy.deepcopy(model)
        rounded.load_state_dict(stored)
        with torch.no_grad():
            got, expected = loaded(**self.inputs(2)).logits, rounded(**self.inputs(2)).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)

    def test_a_model_halved_in_memory_is_stored_to_load_as_float32(self, tmp_path: Path) -> None:
        self.model().half().save_pretrained(tmp_path, weights_dtype="float16")
        loaded = self.model_class.from_pretrained(tmp_path)
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}
        assert {value.dtype for value in loaded.buffers() if value.is_floating_point()} <= {torch.float32}

    def test_half_precision_refuses_what_it_cannot_hold(self, tmp_path: Path) -> None:
        model = self.model()
        with pytest.raises(WeightsDtypeError, match="float8"):
            model.save_pretrained(tmp_path, weights_dtype="float8")
        model.get_submodule(self.head).weight.data[0, 0] = 1e6
        with pytest.raises(WeightsDtypeError, match=re.escape(f"{self.head}.weight holds 1e+06")):
            model.save_pretrained(tmp_path, weights_dtype="float16")
        model.float32_prefixes = ("trust", self.head)
        model.save_pretrained(tmp_path, weights_dtype="float16")
        assert load_file(tmp_path / "model.safetensors")[f"{self.head}.weight"][0, 0] == 1e6
