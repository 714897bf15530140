"""Folders that somebody else wrote, or that a download damaged: each cause has its own line, nothing is built."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from datasets_scripts.command import UserError
from hub_models import BackboneWeightsError, MobileNetForLesionClassification, MobileNetLesionConfig, NotFiniteError
from hub_models.backbone_lesion import check_safetensors
from hub_models.modeling_vit import read_vit
from trainers.model_folder.folder import load as load_ours
from trainers.model_folder.source import ModelError, fetch, load, parse_source
from trainers.published.state import read_state
from trainers.scoring.scorer import AnswerSettings, Scorer

from .conftest import save

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4651630\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "model"
    return save(folder, MobileNetLesionConfig, MobileNetForLesionClassification, backbone="mobilenetv2_035")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


def list_in_manifest(folder: Path) -> None:
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in folder.iterdir()
    }
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": files}))


def load_foreign(text: str) -> Any:
    source = parse_source(text)
    return load(source, fetch(source)[1])


def refusals(folder: Path) -> list[str]:
    """What score and the commands that load a model of ours say: one line each."""
    messages = []
    with pytest.raises(ModelError) as refused:
        load_foreign(str(folder))
    messages.append(str(refused.value))
    with pytest.raises(UserError) as refused_ours:
        load_ours(str(folder))
    messages.append(str(refused_ours.value))
    assert all("\n" not in line and len(line) < 900 for line in messages)
    return messages


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def spoil(folder: Path, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"][0] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


class Code:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle ran",))


CAUSES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda f: (f / "model.safetensors").write_text(POINTER), "Git LFS pointer"),
    "pointer_size": (lambda f: (f / "model.safetensors").write_text(POINTER), "4,651,630 bytes"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "0 bytes"),
    "page": (lambda f: (f / "model.safetensors").write_text("<!DOCTYPE html><title>404</title>"), "web page"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "cut short"),
    "noise": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 1000), "no safetensors file (1,000 bytes)"),
    "no_weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "nan": (lambda f: spoil(f, float("nan")), "'head.bias' holds NaN"),
    "inf": (lambda f: spoil(f, float("inf")), "'head.bias' holds NaN or infinite"),
    "null": (lambda f: (f / "config.json").write_text("null"), "null"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "list"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 100_000 + "]" * 100_000), "nested too deep"),
    "nested_object": (lambda f: (f / "config.json").write_text('{"a":' * 60 + "1" + "}" * 60), "nested more than"),
    "config_pointer": (lambda f: (f / "config.json").write_text(POINTER), "Git LFS pointer"),
    "size": (lambda f: change(f, "config.json", image_size=10**9), "image_size"),
    "classes": (lambda f: change(f, "config.json", num_labels=10**9), "num_labels"),
    "classes_text": (lambda f: change(f, "config.json", num_labels="7"), "num_labels"),
    "band": (lambda f: change(f, "config.json", trust={"bands": {"low": {"threshold": 1e999}}}), "threshold"),
    "file": (lambda f: change(f, "config.json", backbone_kwargs={"checkpoint_path": "x.pth"}), "checkpoint_path"),
    "hub": (lambda f: change(f, "config.json", backbone="hf-hub:org/backbone"), "hf-hub:org/backbone"),
    "kernel": (lambda f: change(f, "config.json", _attn_implementation="org/kernel"), "org/kernel"),
    "elsewhere": (
        lambda f: change(f, "config.json", auto_map={"AutoConfig": "org/other--configuration_x.X"}),
        "org/other--configuration_x.X",
    ),
    "timm_wrapper": (
        lambda f: change(
            f, "config.json", model_type="timm_wrapper", architecture="resnet10t", model_args={"checkpoint_path": "x"}
        ),
        "model_args.checkpoint_path",
    ),
    "timm_wrapper_hub": (
        lambda f: change(f, "config.json", model_type="timm_wrapper", architecture="local-dir:/etc"),
        "local-dir:/etc",
    ),
    "processor": (lambda f: change(f, "preprocessor_config.json", size={"height": 10**9, "width": 8}), "height"),
    "processor_null": (lambda f: (f / "preprocessor_config.json").write_text("null"), "null"),
    "flipped": (lambda f: (list_in_manifest(f), flip(f)), "model.safetensors is not the file"),
    "flipped_config": (lambda f: (list_in_manifest(f), change(f, "config.json", dropout=0.1)), "config.json is not"),
    "manifest": (lambda f: (f / "manifest.json").write_text('{"files": 3}'), "manifest.json"),
    "manifest_nested": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "manifest.json"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_its_own_line(cause: str, folder: Path) -> None:
    spoiled, named = CAUSES[cause]
    spoiled(folder)
    for line in refusals(folder):
        assert named in line


def test_a_pickle_in_place_of_the_weights_is_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    assert all("model.safetensors" in line for line in refusals(folder))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_ours(str(tmp_path))
    with pytest.raises(ModelError, match=r"config\.json"):
        fetch(parse_source(str(tmp_path)))


def test_what_is_as_the_manifest_lists_it_loads(folder: Path) -> None:
    list_in_manifest(folder)
    assert load(parse_source(str(folder)), None)[0].config.labels == ["mel", "nv", "bkl"]


@pytest.mark.parametrize("task", ["lesion-classification", "image-classification"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_pipeline_names_a_class_where_there_is_no_number(folder: Path, value: float, task: str) -> None:
    spoil(folder, value)
    answer: Any = pipeline(task, model=str(folder), trust_remote_code=True)
    how = {"trust": False} if task == "lesion-classification" else {}
    with pytest.raises(ValueError, match="NaN or infinite"):
        answer(np.zeros((40, 40, 3), dtype=np.uint8) if task == "lesion-classification" else _image(), **how)


def _image() -> Any:
    from PIL import Image

    return Image.new("RGB", (40, 40), "grey")


def test_neither_pixels_nor_weights_that_are_no_numbers_get_a_class(whole: Path) -> None:
    model = MobileNetForLesionClassification.from_pretrained(whole)
    pixels = torch.zeros(3, 3, 32, 32)
    for value in (float("nan"), float("inf"), -float("inf")):
        pixels[1, 0, 0, 0] = value
        with pytest.raises(NotFiniteError, match=r"1 of 3 images \(the first: 1\)"):
            model.predict(pixel_values=pixels, trust=False)
    with torch.no_grad():
        model.head.bias[2] = float("nan")
    for call in (
        lambda x: model.predict(pixel_values=x, trust=False),
        lambda x: model.predict(pixel_values=x),
        lambda x: model.predict(pixel_values=x, trust=False, inference="tta"),
        lambda x: model.predict(pixel_values=x, trust=False, inference="mc_dropout"),
        lambda x: model.explain(x),
        model,
    ):
        with pytest.raises(NotFiniteError, match="logits"):
            call(torch.zeros(2, 3, 32, 32))


def test_one_image_without_an_answer_spoils_no_batch(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(parse_source(str(whole)), AnswerSettings(trust=False), "cpu")
    good, bad = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), float("nan"))
    answers = scorer.answer_each([{"pixel_values": one} for one in (good, bad, good)])
    assert [answer is None for answer, _, _ in answers] == [False, True, False]
    assert "NaN" in str(answers[1][2])
    assert answers[0][0] == answers[2][0]


def test_an_enormous_ood_score_is_no_number_in_json(whole: Path) -> None:
    model = MobileNetForLesionClassification.from_pretrained(whole)
    output = model.infer({"pixel_values": torch.zeros(1, 3, 32, 32)})
    output["ood_score"] = torch.tensor([float("nan")])
    answer = model.answer_in_words(output)[0]
    assert answer["ood_score"] is None
    assert answer["is_ood"] is True
    assert answer["abstain"] is True
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"image_size": 10**9}, "image_size is 1000000000"),
        ({"hidden_size": "large"}, "hidden_size is 'large'"),
        ({"_attn_implementation": "org/kernel"}, "code of another place"),
    ],
)
def test_a_hostile_vit_is_refused_before_it_is_built(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **values}))
    with pytest.raises(BackboneWeightsError, match=named):
        read_vit(tmp_path)


def test_a_pointer_in_place_of_first_weights_is_named(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.safetensors"
    path.write_text(POINTER)
    with pytest.raises(BackboneWeightsError, match="Git LFS pointer"):
        check_safetensors(path)
    checkpoint = tmp_path / "best.pth"
    checkpoint.write_text(POINTER)
    with pytest.raises(UserError, match="Git LFS pointer"):
        read_state(checkpoint)
