"""What lies in a saved model's folder for its users: stored outputs, the handler of Inference Endpoints, its header."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lesion_shipping_tester import sample_image
from lesion_trust_tester import fitted
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from hub_models import (
    PIPELINE_TASK,
    SUITE_VERSION,
    AutoencoderLesionConfig,
    AutoencoderLesionModel,
    FusionForLesionClassification,
    FusionLesionConfig,
    HeaderError,
    LesionClassificationPipeline,
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    SelfCheckError,
)
from model_cards.code_files import code_files
from model_cards.verify import check_outputs
from trainers.model_folder.finish import save

SMALL = {"id2label": {0: "mel", 1: "nv", 2: "bkl"}, "image_size": 32, "backbone": "mobilenetv2_035"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = fitted(MobileNetForLesionClassification(MobileNetLesionConfig(**SMALL)).eval())
    folder = tmp_path_factory.mktemp("saved")
    save(model, LesionImageProcessor(size=32), folder, "float16")
    return folder


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForImageClassification.from_pretrained(folder, **options)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_loaded_model_computes_what_it_did(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["suite_version"] == SUITE_VERSION
    assert len(config["self_check"]["outputs"]) == 3
    model = load(folder)
    checked = model.self_check()
    # fp16 rounds a weight by at most 0.05 %.
    assert 0 <= checked["difference"] < checked["tolerance"] == pytest.approx(0.01, rel=3)
    assert not model.training
    assert AutoModel.from_pretrained(folder).self_check() == checked
    assert load(folder, dtype=torch.bfloat16).self_check()["tolerance"] == pytest.approx(5 * checked["tolerance"])
    assert check_outputs(copy_with_report(folder)) == []


def copy_with_report(folder: Path) -> Path:
    """The folder itself, with the file by which a model's folder is known."""
    (folder / "report.json").touch()
    return folder


@pytest.mark.parametrize("part", ["head", "backbone.conv_head"])
def test_weights_that_were_drawn_again_are_found(folder: Path, part: str) -> None:
    model = load(folder)
    layer = model.get_submodule(part)
    layer.reset_parameters()
    with pytest.raises(SelfCheckError, match=r"does not compute what it did .* update transformers"):
        model.self_check()
    layer.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"nan|NaN"):
        model.self_check()


def test_what_no_longer_holds_is_not_stored_again(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    model.save_pretrained(tmp_path / "same")
    assert load(tmp_path / "same").config.self_check == model.config.self_check
    model.head.weight.data += 1
    model.save_pretrained(tmp_path / "trained")
    trained = load(tmp_path / "trained")
    assert trained.config.self_check == {}
    with pytest.raises(SelfCheckError, match="saved without"):
        trained.self_check()
    with pytest.warns(UserWarning, match="self_check of the old labels were dropped"):
        other = load(folder, num_labels=2, ignore_mismatched_sizes=True)
    assert other.config.self_check == {}
    model.config.self_check = {"outputs": [1.0, "x"]}
    with pytest.raises(SelfCheckError, match="of another model"):
        model.self_check()


@pytest.mark.parametrize(
    "model",
    [
        lambda: FusionForLesionClassification(FusionLesionConfig(**SMALL)),
        lambda: MetadataForLesionClassification(MetadataLesionConfig(id2label=SMALL["id2label"])),
        lambda: AutoencoderLesionModel(
            AutoencoderLesionConfig(image_size=32, encoder_channels=[8, 8], code_size=5, squeeze_channels=2)
        ),
    ],
    ids=["fusion", "metadata", "autoencoder"],
)
def test_every_kind_of_model_has_its_self_check(model: Any) -> None:
    torch.manual_seed(0)
    made = model().eval()
    made.store_self_check()
    assert made.self_check()["difference"] == 0
    next(made.parameters()).data.mul_(50)
    with pytest.raises(SelfCheckError):
        made.self_check()


# ------------------------------------------------------ models saved before

SAVED_BEFORE = Path(__file__).with_name("saved_before")


@pytest.mark.parametrize("name", ["image", "metadata"])
def test_a_model_saved_by_an_earlier_version_gives_the_same_answer(name: str) -> None:
    """Saved by 0.1.0 before it had self-checks, versions and image processors without steps; ``answer.json`` is its."""
    row, column = np.mgrid[0:48, 0:64]
    image = Image.fromarray(
        np.stack([(3 * column + row) % 256, (column * row) % 256, (5 * row) % 256], -1).astype(np.uint8)
    )
    processor = AutoImageProcessor.from_pretrained(SAVED_BEFORE / name)
    describe = LesionClassificationPipeline(
        model=load(SAVED_BEFORE / name), image_processor=processor, task=PIPELINE_TASK, device=-1
    )
    answer = describe({"image": image, "age": 45, "sex": "female", "localization": "back"})
    before = json.loads((SAVED_BEFORE / name / "answer.json").read_text())
    assert set(answer) >= set(before)
    for key, value in before.items():
        if isinstance(value, (dict, float)):
            assert answer[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
        else:
            assert answer[key] == value, key
    with pytest.raises(SelfCheckError, match="saved without"):
        describe.model.self_check()
    assert sum(path.stat().st_size for path in (SAVED_BEFORE / name).iterdir()) < 150_000


# ------------------------------------------------------------- the header


def test_tensors_of_another_model_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    copy = copy_of(folder, tmp_path)
    path = copy / "model.safetensors"
    state = load_file(path)
    save_file({**state, "head.weight": torch.zeros(3, 7)}, path)
    with pytest.raises(HeaderError, match=r"'head.weight' has the shape \(3, 7\), and the config gives \(3, 1280\)"):
        load(copy)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    # Of a size that no machine has: nothing is allocated for it.
    header["head.weight"] |= {"shape": [10**9, 10**9]}
    for changed, named in ((header, "1000000000"), ({"head.bias": {**header["head.bias"], "dtype": "O"}}, "type 'O'")):
        text = json.dumps(changed).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises((HeaderError, OSError), match=named):
            load(copy)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    with pytest.raises(OSError, match=r"Git LFS|safetensors"):
        load(copy)


def test_no_other_format_of_weights_is_read(folder: Path, tmp_path: Path) -> None:
    copy = copy_of(folder, tmp_path)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    with pytest.raises(HeaderError, match="use_safetensors=False"):
        load(copy, use_safetensors=False)
    (copy / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(copy)


# --------------------------------------------------- Inference Endpoints


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Any:
    """As the platform makes it: the file is imported by its path, and the class gets the folder."""
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def content(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_an_endpoint_answers_as_the_pipeline_does(endpoint: Any, folder: Path) -> None:
    image = sample_image(3)
    raw = content(image)
    text = base64.b64encode(raw).decode()
    expected = pipeline("lesion-classification", str(folder), trust_remote_code=True)(image)
    record = {"image": text, "age": 45, "sex": "female", "localization": "back"}
    for inputs in (image, raw, text, f"data:image/png;base64,{text}", record, [image]):
        [answer] = endpoint({"inputs": inputs})
        assert answer["message"] == expected["message"]
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
        json.dumps(answer)
    answers = endpoint({"inputs": [image, text, record], "parameters": {"trust": False}})
    assert [answer["band"] for answer in answers] == [None] * 3


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, 'no "inputs"'),
        ([], 'no "inputs"'),
        ({"inputs": []}, "0 inputs"),
        ({"inputs": ["x"] * 65}, "65 inputs"),
        ({"inputs": "/etc/hostname"}, "no base64"),
        ({"inputs": "file:///etc/hostname"}, "no base64"),
        ({"inputs": "http://127.0.0.1/a.png"}, "no base64"),
        ({"inputs": {"image": 7}}, "input 0 is a int"),
        ({"inputs": base64.b64encode(b"no image").decode()}, "no image that can be opened"),
        ({"inputs": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, "no image that can be opened"),
        ({"inputs": "x", "parameters": {"path": "/"}}, "unknown parameters ['path']"),
        ({"inputs": {"image": None, "age": 4}}, "has no image"),
        ({"inputs": {"image": base64.b64encode(content(sample_image(0))).decode(), "dx_type": "x"}}, "dx_type"),
    ],
)
def test_a_bad_request_is_one_line_and_opens_nothing(endpoint: Any, data: Any, named: str) -> None:
    with pytest.raises(ValueError) as raised:
        endpoint(data)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_stock_task_keeps_working(folder: Path) -> None:
    classify = pipeline("image-classification", str(folder), trust_remote_code=True, top_k=3)
    rows = classify(sample_image(3))
    assert {row["label"] for row in rows} == {"mel", "nv", "bkl"}
    assert np.isclose(sum(row["score"] for row in rows), 1, atol=1e-5)


def test_each_code_file_has_a_purpose(folder: Path) -> None:
    rows = code_files(folder)
    names = {row["file"] for row in rows}
    assert {"handler.py", "modeling_mobilenet.py", "image_processing_pixels.py", "self_check_lesion.py"} <= names
    assert names.isdisjoint({"metadata_lesion.py", "hair_lesion.py", "crop_lesion.py", "modeling_ensemble.py"})
    for row in rows:
        assert row["lines"] == len((folder / row["file"]).read_text().splitlines())
        assert row["purpose"] not in ("", "not stated")
