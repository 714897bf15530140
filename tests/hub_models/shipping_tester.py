"""What a saved classifier needs without this repository: its code beside it, and a clean process that loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import processes
import pytest
import torch
from lesion_trust_tester import fitted
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoImageProcessor

from hub_models import PIPELINE_TASK, LesionClassificationPipeline, LesionImageProcessor

LABELS = ("mel", "nv", "akiec", "bkl")
REMOTE_CHECK = Path(__file__).with_name("remote_check.py")


@cache
def user_home() -> tempfile.TemporaryDirectory[str]:
    """The caches of a user who loads one model after the other."""
    return tempfile.TemporaryDirectory(prefix="lesion-user-")


def run_clean(script: Path, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in an isolated process, in ``folder``, which finds nothing of this repository."""
    home = user_home().name
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return processes.run([sys.executable, str(script), *map(str, arguments)], cwd=folder, env=environment, timeout=300)


def sample_image(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """A small colourful RGB image, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def records(folder: Path) -> list[dict[str, Any]]:
    """Two records as a user of the pipeline gives them; their images lie in ``folder``."""
    known = {"age": 45, "sex": "female", "localization": "back"}
    return [{"image": str(folder / "0.png"), **known}, {"image": str(folder / "1.png"), "age": 80}]


class ShippingTester:
    """The part of the classifier tester that saves, ships and loads; what it needs of it is declared first."""

    model_class: ClassVar[Any]
    image_size: ClassVar[int]
    # The files that must lie beside the weights beyond those of the shared base and the processor.
    own_files: ClassVar[set[str]]
    explanations: ClassVar[tuple[str, ...]]
    # Its methods; the classifier tester has them.
    model: Any
    inputs: Any
    processor: Any

    shared_files: ClassVar[set[str]] = {
        "answer_lesion.py",
        "backbone_lesion.py",
        "checks_lesion.py",
        "configuration_lesion.py",
        "decision_lesion.py",
        "explain_lesion.py",
        "groups_lesion.py",
        "image_processing_pixels.py",
        "infer_lesion.py",
        "modeling_lesion.py",
        "ood_lesion.py",
        "output_lesion.py",
        "pipeline_lesion.py",
        "preprocess_lesion.py",
        "backend_lesion.py",
        "self_check_lesion.py",
        "storage_lesion.py",
        "trust_lesion.py",
    }

    @staticmethod
    def with_temperature(model: Any, value: float) -> Any:
        model.config.trust["temperature"] = {"value": value, "split": "calibration", "n": 100, "method": "test"}
        return model

    def saved(self, folder: Path) -> tuple[Any, LesionImageProcessor]:
        """Save a model with fp16 weights and its processor; return the model with the rounded weights."""
        model, processor = fitted(self.model()), self.processor()
        pipeline = LesionClassificationPipeline(model=model, image_processor=processor, task=PIPELINE_TASK, device=-1)
        pipeline.save_pretrained(folder, weights_dtype="float16")
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model, processor

    def test_the_code_is_saved_beside_the_weights(self, tmp_path: Path, repo_root: Path) -> None:
        self.saved(tmp_path)
        code = {path.name for path in tmp_path.glob("**/*.py")}
        assert code == self.shared_files | self.own_files
        for name in code:
            assert (tmp_path / name).read_bytes() == (repo_root / "hub_models" / name).read_bytes()
        auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForImageClassification"}
        assert auto_map["AutoModelForImageClassification"].endswith(f".{self.model_class.__name__}")

    def test_a_model_saved_alone_has_the_code_of_its_pipeline(self, tmp_path: Path) -> None:
        model, processor = fitted(self.model()), self.processor()
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.glob("*.py")} == self.shared_files | self.own_files
        named = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
        assert named == {
            PIPELINE_TASK: {
                "impl": "pipeline_lesion.LesionClassificationPipeline",
                "pt": ["AutoModelForImageClassification"],
                "type": "multimodal",
            }
        }

    def test_auto_classes_know_the_processor(self, tmp_path: Path) -> None:
        self.saved(tmp_path)
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(processor) is LesionImageProcessor
        assert dict(processor.size) == {"height": self.image_size, "width": self.image_size}

    def test_a_user_without_this_repository_can_load_it(self, tmp_path: Path, repo_root: Path) -> None:
        """In a process without our packages and without OpenCV: model, processor, pipelines, saved again."""
        folder = tmp_path / "model"
        model, processor = self.saved(folder)
        sample_images = [sample_image(seed) for seed in range(2)]
        for number, image in enumerate(sample_images):
            image.save(tmp_path / f"{number}.png")
        inputs = {**self.inputs(2), **processor(sample_images, return_tensors="pt")}
        with torch.no_grad():
            logits = model(**inputs).logits
            of_features = model(**inputs).features.numpy()
            of_records = model.predict(**processor(records(tmp_path), return_tensors="pt"))
        np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
        (tmp_path / "records.json").write_text(json.dumps(records(tmp_path)))

        done = run_clean(REMOTE_CHECK, folder, repo_root, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads((tmp_path / "remote.json").read_text())
        assert result["model_module"].startswith("transformers_modules.")
        assert result["ours"] == []
        assert result["dtype"] == "torch.float32"
        np.testing.assert_allclose(result["logits"], logits.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(result["logits_saved_again"], logits.numpy(), rtol=0, atol=1e-5)
        assert set(result["files_saved_again"]) >= self.shared_files | self.own_files
        assert set(result["inputs"]) == set(self.model_class.input_names)
        for name, value in result["inputs"].items():
            np.testing.assert_allclose(value, inputs[name].numpy(), rtol=0, atol=1e-6)
        expected = [dict(zip(LABELS, row.tolist(), strict=True)) for row in functional.softmax(logits, -1)]
        assert [row["probabilities"] for row in result["predict"]] == [pytest.approx(row, abs=1e-5) for row in expected]
        assert result["pipeline"] == [pytest.approx(row, abs=1e-5) for row in expected]
        if self.explanations:
            np.testing.assert_allclose(
                result["heat_maps"], model.explain(**inputs, target=1).heat_maps, rtol=0, atol=1e-4
            )
        else:
            assert result["heat_maps"] == ["ExplanationError"]
        answers = [result[name] for name in ("answers", "answers_by_two", "answers_saved_again", "answers_saved_alone")]
        np.testing.assert_allclose(result["features"], of_features, rtol=0, atol=1e-4)
        assert result["one_answer_an_image"] == [2, 2, 2]
        assert result["task"] == PIPELINE_TASK
        for answer in answers:
            assert [row["predicted"] for row in answer] == [row["predicted"] for row in of_records]
            for row, known in zip(answer, of_records, strict=True):
                assert set(row) == set(known)
                assert row["probabilities"] == pytest.approx(known["probabilities"], abs=1e-5)
        assert result["answer_to_a_path"]["probabilities"] == pytest.approx(expected[0], abs=1e-5)
        name, message = result["unknown_key"]
        assert name == "RecordError"
        assert message.startswith("'dx_type'")
        if "metadata" in self.model_class.input_names:
            assert result["unknown_site"][0] == "RecordError"
            assert result["unknown_site"][1].startswith("localization is 'elbow'; give one of abdomen, ")
        # This model was saved without the code of hair removal.
        assert result["refused"][0] == "SwitchError"
        assert "do_hair_removal is switched on" in result["refused"][1]
