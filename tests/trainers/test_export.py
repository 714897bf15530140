"""Export: one graph beside the weights that answers as torch does, or nothing."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from card_text import folder_card
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from datasets_scripts.command import UserError
from hub_models import EnsembleForLesionClassification, EnsembleLesionConfig, backend_lesion
from hub_models.backend_lesion import BackendError, Graph
from hub_models.pipeline_lesion import LesionClassificationPipeline
from model_cards.build import build_card
from model_cards.verify import verify_folder
from trainers import export as command
from trainers import score
from trainers.evaluation.decisions import Decisions
from trainers.model_folder import export as exporting
from trainers.model_folder.data import load_splits

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]
FLOATS = ("p_malignant", "predictive_entropy", "ood_score")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    command.main()


@pytest.fixture(scope="module")
def exported(trained: Path, phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both formats in float32: OpenVINO compared on images, then ONNX on random pixels."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        run(
            patch,
            trained,
            "--format",
            "openvino",
            "--calibration_images",
            phantom_dataset,
            "--output_dir",
            folder / "a",
        )
        run(patch, folder / "a", "--format", "onnx", "--output_dir", folder / "b")
    return folder / "b"


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
    for name in set(wanted) - {"probabilities"}:
        expected = pytest.approx(wanted[name], rel=1e-4, abs=1e-5) if name in FLOATS else wanted[name]
        assert found[name] == expected, name


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_the_graph_gives_the_dictionary_of_torch(exported: Path, image: Image.Image, backend: str) -> None:
    model = AutoModelForImageClassification.from_pretrained(exported).eval()
    processor = AutoImageProcessor.from_pretrained(exported)
    inputs = dict(processor([image, image.rotate(90)], return_tensors="pt"))
    wanted = model.predict(**inputs)
    heat = model.explain(**inputs).heat_maps
    assert model.use_backend(backend) == backend
    ran: list[int] = []
    model.backbone.register_forward_hook(lambda *_: ran.append(1))
    for found, expected in zip(model.predict(**inputs), wanted, strict=True):
        same(found, expected)
    views = model.predict(**inputs, inference="tta")
    assert not ran  # no layer of torch's network was needed
    pipeline = LesionClassificationPipeline(model=model, image_processor=processor, device=-1)
    same(pipeline(image), wanted[0])
    assert not ran
    assert torch.equal(model.explain(**inputs).heat_maps, heat)  # torch's own
    assert len(model(**inputs, output_hidden_states=True).hidden_states) > 1
    larger = torch.nn.functional.interpolate(inputs["pixel_values"], 48)
    model.predict(pixel_values=larger)  # another size than the graph's
    assert len(ran) == 3
    with torch.inference_mode():
        assert torch.isfinite(model(**inputs).logits).all()
    assert model.use_backend("torch") == "torch"
    for found, expected in zip(model.predict(**inputs, inference="tta"), views, strict=True):
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_what_the_folder_holds(exported: Path, trained: Path) -> None:
    assert verify_folder(exported) == []
    listed = json.loads((exported / "manifest.json").read_text())["files"]
    assert {"openvino_model.xml", "openvino_model.bin", "model.onnx", "exported.json", "backend_lesion.py"} <= set(
        listed
    )
    section = json.loads((exported / "report.json").read_text())["exported"]
    assert section["openvino"]["decisions"] == section["openvino"]["sets"] == 1.0
    assert section["openvino"]["images"] > 5
    assert section["onnx"]["largest_logit_difference"] < 1e-3
    card = folder_card(exported)
    assert "| openvino | f32 |" in card
    assert 'use_backend("auto")' in (exported / "README.md").read_text()
    assert verify_folder(trained) == []  # the source is as it was


def test_features_alone_keep_their_last_map(exported: Path, image: Image.Image) -> None:
    features = AutoModel.from_pretrained(exported).eval()
    inputs = AutoImageProcessor.from_pretrained(exported)(image, return_tensors="pt")
    features.use_backend("openvino")
    with torch.inference_mode():
        assert features(**inputs).last_hidden_state.ndim == 4


def test_training_drops_the_graph(exported: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(exported)
    model.use_backend("onnx")
    model.train().eval()
    assert model.graph is None


def test_score_uses_it_and_states_it(
    exported: Path, image: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "a.png")
    words = ["--model", exported, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["score", *map(str, words)])
    score.main()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["scored"]["backend"] == "openvino"


def test_other_weights_are_named(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        model.head.bias += 1
    model.save_pretrained(folder)
    build_card(folder)
    problems = verify_folder(folder)
    assert len(problems) == 1
    assert "openvino_model.xml was made from other weights than model.safetensors" in problems[0]
    (folder / "model.onnx").write_bytes(b"")
    build_card(folder)
    assert any(problem.startswith("model.onnx is not the graph") for problem in verify_folder(folder))
    model = AutoModelForImageClassification.from_pretrained(folder)
    with pytest.raises(BackendError, match=r"model\.safetensors is not the file that exported\.json names"):
        model.use_backend("openvino")
    with caplog.at_level(logging.WARNING):
        assert model.use_backend() == "folded"
    assert "The model runs with torch: model.safetensors" in caplog.text
    monkeypatch.setattr(sys, "argv", ["score", "--model", str(folder), "--images", str(folder), "--out",
                                      str(tmp_path / "o"), "--backend", "onnx"])  # fmt: skip
    with pytest.raises(UserError, match="--backend onnx"):
        score.main()
    assert not (tmp_path / "o").exists()


def test_without_a_runtime_torch_runs_after_one_line(
    exported: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend_lesion, "find_spec", lambda name: None)
    model = AutoModelForImageClassification.from_pretrained(exported)
    with caplog.at_level(logging.WARNING):
        assert model.use_backend("auto") == "folded"
    assert [record.message for record in caplog.records if "runs with torch" in record.message] == [
        "The model runs with torch: openvino is not installed; install it with `pip install openvino`."
    ]
    with pytest.raises(BackendError, match="pip install onnxruntime"):
        model.use_backend("onnx")
    with pytest.raises(BackendError, match="'tensorrt'; choose one of auto, torch, folded, openvino, onnx"):
        model.use_backend("tensorrt")
    plain = AutoModelForImageClassification.from_pretrained(trained)
    with pytest.raises(BackendError, match="no graph for openvino"):
        plain.use_backend("openvino")
    assert plain.use_backend() == "folded"


def test_what_cannot_be_exported_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--output_dir", tmp_path / "out"]
    with pytest.raises(UserError, match="--precision int8 was given without --calibration_images"):
        run(monkeypatch, trained, "--format", "openvino", "--precision", "int8", *out)
    bare = tmp_path / "bare"
    shutil.copytree(trained, bare)
    for name in ("config.json", "report.json"):
        content = json.loads((bare / name).read_text())
        content["trust"] = {"temperature": content["trust"]["temperature"]}
        content.pop("trust_evaluation", None)
        (bare / name).write_text(json.dumps(content))
    build_card(bare)
    with pytest.raises(
        UserError, match=r"'.*bare' has no fitted trust: fit it first with python -m trainers\.fit_trust"
    ):
        run(monkeypatch, bare, "--format", "openvino", *out)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install openvino$"):
        run(monkeypatch, trained, "--format", "openvino", *out)
    with pytest.raises(UserError, match=r"not installed: pip install onnx onnxruntime$"):
        run(monkeypatch, trained, "--format", "onnx", *out)
    assert not (tmp_path / "out").exists()


def test_a_graph_that_answers_otherwise_is_refused_with_the_figures(
    trained: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Graph):
        def run(self, inputs: Any) -> dict[str, torch.Tensor]:
            return {name: -5 * value for name, value in super().run(inputs).items()}

    monkeypatch.setattr(exporting, "Graph", Other)
    splits = load_splits(str(phantom_dataset), "grouped")
    with pytest.raises(
        UserError, match=r"decisions agree for [\d.]+% \(at least 99.5%\)|the ECE moves by 0\.\d+, from"
    ):
        exporting.export(str(trained), splits, tmp_path / "out", form="onnx")
    with pytest.raises(UserError, match="on random pixels a logit differs by"):
        exporting.export(str(trained), None, tmp_path / "out", form="onnx")
    assert list(tmp_path.iterdir()) == []


def test_agreement_by_hand() -> None:
    def made(probs: list[list[float]], abstains: list[bool], sets: list[list[bool]]) -> Decisions:
        p = np.array(probs)
        n = len(p)
        return Decisions(
            probs=p,
            predicted=p.argmax(axis=1),
            flagged=None,
            uncertainty=1 - p.max(axis=1),
            sets=np.array(sets),
            bands=np.array(["low"] * n, dtype=object),
            accepted=np.ones(n, dtype=bool),
            reasons=np.array(["answered"] * n, dtype=object),
            abstains=np.array(abstains),
        )

    one, both = [True, False], [True, True]
    before = made([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], [False] * 4, [one, one, both, one])
    after = made([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], [False, False, True, False], [one, both, both, one])
    found = exporting.agreement(before, after, np.array([0, 0, 1, 0]))
    assert found["decisions"] == 0.5  # the second has another class, the third another verdict
    assert found["sets"] == 0.75
    assert found["largest_difference"] == pytest.approx(0.2)
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.2 + 0.3) / 4)  # all are right, each in a bin of its own
    assert found["ece_graph"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    text = exporting.why_refused(found)
    assert "of 4 images decisions agree for 50.00% (at least 99.5%)" in text
    assert "prediction sets agree for 75.00% (at least 99.0%)" in text
    assert "the ECE moves by 0.0500, from 0.2500 to 0.3000 (less than 0.002)" in text
    assert exporting.why_refused({**found, "decisions": 0.995, "sets": 0.99, "ece_graph": 0.2519}) == ""


@pytest.fixture(scope="module")
def ensemble() -> EnsembleForLesionClassification:
    member = {"backbone": "test_resnet", "backbone_kwargs": {}, "dropout": 0.1}
    config = EnsembleLesionConfig(id2label={0: "mel", 1: "nv", 2: "bkl"}, image_size=32, members=[member] * 2)
    torch.manual_seed(0)
    return EnsembleForLesionClassification(config).eval()


def test_eight_bits_leave_the_head_in_float(ensemble: EnsembleForLesionClassification, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [{"pixel_values": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    paths = exporting.build_graph(ensemble, tmp_path, "openvino", "int8", images)
    graph = Graph("openvino", paths, "int8")
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32)}
    assert 'element_type="i8"' in paths[0].read_text()
    with torch.inference_mode():
        found, wanted = graph.run(inputs), ensemble(**inputs)
        assert set(found) == {"raw_logits", "features", "early"}
        assert torch.allclose(ensemble.classify(found["features"]), found["raw_logits"], atol=1e-5)
        close = torch.nn.functional.cosine_similarity(found["features"], wanted.features)
    assert not torch.allclose(found["features"], wanted.features, atol=1e-6)
    assert close.min() > 0.95
