"""A real model and a real dataset through the Hub, read back by people who have never heard of this project."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from card_text import folder_card
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from PIL import Image

from datasets_scripts.curate import curate
from datasets_scripts.dataset_card import Description
from datasets_scripts.rows import Row
from hub_models import (
    PIPELINE_TASK,
    LesionClassificationPipeline,
    LesionImageProcessor,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)
from model_cards.build import build_card
from model_cards.publish import Published, plan, publish

# Importing any of our packages fails in the other process, although this checkout may be installed there.
CLEAN_PROCESS = """
import sys
sys.modules.update(dict.fromkeys(("hub_models", "model_cards", "trainers", "datasets_scripts")))
"""


def in_a_clean_process(code: str, hub: LoopbackHub, home: Path) -> Any:
    """Run code in a clean process in an empty folder; it prints one JSON value on its last line."""
    home.mkdir(exist_ok=True)
    env = hub.client_env(home, OMP_NUM_THREADS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    env.pop("PYTHONPATH", None)
    line = [sys.executable, "-c", CLEAN_PROCESS + code]
    done = processes.run(line, cwd=home, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def jpeg_of(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def real_model_folder(tmp_path: Path, report: dict[str, Any]) -> Path:
    """A small random MobileNet, stored in fp16 as a release is, with an invented report that fits it."""
    labels = report["model"]["labels"]
    torch.manual_seed(0)
    config = MobileNetLesionConfig(
        backbone="mobilenetv2_035",
        image_size=64,
        id2label={index: label["name"] for index, label in enumerate(labels)},
        label_names={label["name"]: label["long_name"] for label in labels},
        label_groups={label["name"]: label["group"] for label in labels},
        trust=report["trust"],
    )
    folder = tmp_path / "round-trip"
    model, processor = MobileNetForLesionClassification(config), LesionImageProcessor(size={"height": 64, "width": 64})
    pipeline = LesionClassificationPipeline(model=model, image_processor=processor, task=PIPELINE_TASK, device=-1)
    pipeline.save_pretrained(folder, weights_dtype="float16")
    report["model"] |= {"image_size": 64, "backbone": "mobilenetv2_035"}
    report["figures"] = []
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    build_card(folder)
    return folder


@pytest.fixture
def published_model(hub: LoopbackHub, real_model_folder: Path) -> Published:
    return publish(plan(real_model_folder, "org/lesions"), HfApi(endpoint=hub.endpoint, token=hub.token))


def local_answer(folder: Path, image: Path) -> tuple[list[list[float]], list[list[float]]]:
    """(logits, raw logits) of the weights as stored, computed here."""
    model = MobileNetForLesionClassification.from_pretrained(folder).eval()
    inputs = LesionImageProcessor.from_pretrained(folder)(Image.open(image), return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    return output.logits.tolist(), output.raw_logits.tolist()


@pytest.mark.slow
def test_another_process_gets_the_same_logits_also_from_a_pinned_revision(
    hub: LoopbackHub, published_model: Published, real_model_folder: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    image = tmp_path / "lesion.png"
    image.write_bytes(jpeg_of(1))
    logits, raw_logits = local_answer(real_model_folder, image)
    # A second publication with another temperature moves main; the pinned revision must not move with it.
    config = json.loads((real_model_folder / "config.json").read_text())
    for trust in (config["trust"], report["trust"]):
        trust["temperature"]["value"] = 2.0
    (real_model_folder / "config.json").write_text(json.dumps(config))
    (real_model_folder / "report.json").write_text(json.dumps(report))
    build_card(real_model_folder)
    publish(plan(real_model_folder, "org/lesions"), HfApi(endpoint=hub.endpoint, token=hub.token))
    code = f"""
import json, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
answers = {{}}
for revision in ("main", "{published_model.commit}"):
    how = dict(revision=revision, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained("org/lesions", **how)
    model = AutoModelForImageClassification.from_pretrained("org/lesions", **how).eval()
    with torch.no_grad():
        output = model(**processor(Image.open({str(image)!r}), return_tensors="pt"))
    answers[revision] = [output.logits.tolist(), output.raw_logits.tolist(), type(model).__module__]
print(json.dumps(answers))
"""
    answers = in_a_clean_process(code, hub, tmp_path / "user")
    pinned, newest = answers[published_model.commit], answers["main"]
    np.testing.assert_allclose(pinned[0], logits, atol=1e-5)
    np.testing.assert_allclose(pinned[1], raw_logits, atol=1e-5)
    np.testing.assert_allclose(newest[1], raw_logits, atol=1e-5)
    np.testing.assert_allclose(newest[0], np.array(raw_logits) / 2.0, atol=1e-5)
    assert "transformers_modules" in pinned[2]


@pytest.mark.slow
def test_the_code_on_the_card_runs_as_printed(
    hub: LoopbackHub, published_model: Published, real_model_folder: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    image = tmp_path / "lesion.jpg"
    image.write_bytes(jpeg_of(2))
    probabilities = torch.tensor(local_answer(real_model_folder, image)[0][0]).softmax(-1).tolist()
    card = folder_card(real_model_folder)
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 1
    block = blocks[0].replace("ORG/invented-mobilenet", "org/lesions").replace("lesion.jpg", str(image))
    program = f"import json\n{block}\nprint(json.dumps(answer))\n"
    answer = in_a_clean_process(program, hub, tmp_path / "user")
    expected = dict(zip(["bcc", "df", "mel", "nv"], probabilities, strict=True))
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert answer["predicted"] == max(expected, key=lambda name: expected[name])
    assert answer["p_malignant"] == pytest.approx(expected["bcc"] + expected["mel"], abs=1e-5)
    unsure = 1 - max(expected.values())
    band = "low" if unsure <= 0.223 else "moderate" if unsure <= 0.416 else "high"
    qhat = dict(zip(expected, report["trust"]["conformal"]["qhat"], strict=True))
    names = [name for name, value in expected.items() if 1 - value <= qhat[name]]
    assert (answer["band"], answer["prediction_set"], answer["is_ood"]) == (band, names, False)
    assert answer["abstain"] == (band == "high" or not 1 <= len(names) <= 3)
    for key in answer:
        assert f"`{key}`" in card


def test_a_dataset_loads_by_its_name_config_and_revision(hub: LoopbackHub, tmp_path: Path) -> None:
    labels = ("mel", "nv")
    rows = [
        Row(
            image_id=f"image{index:03}",
            label=labels[index % 2],
            read=lambda index=index: jpeg_of(index),
            lesion_id=f"lesion{index:03}",
            source="invented",
            license="cc0-1.0",
            attribution="nobody",
        )
        for index in range(80)
    ]
    folder = tmp_path / "images"
    about = Description("images", "Invented images", labels, "cc0-1.0", "@misc{none}")
    curate(rows, folder, about, published=None, seed=1)
    done = publish(plan(folder, "org/images"), HfApi(endpoint=hub.endpoint, token=hub.token))
    assert len(hub.repo("org/images", "datasets").history("main")) == 2
    code = f"""
import hashlib, json
from datasets import load_dataset
splits = load_dataset("org/images", "grouped", revision="{done.commit}")
stream = load_dataset("org/images", "grouped", split="train", streaming=True)
everything = [row for rows in splits.values() for row in rows]
pixels = {{row["image_id"]: hashlib.sha256(row["image"].tobytes()).hexdigest() for row in everything}}
print(json.dumps([
    {{name: len(rows) for name, rows in splits.items()}},
    splits["train"].features["label"].names,
    pixels,
    sorted(row["image_id"] for row in stream) == sorted(splits["train"]["image_id"]),
]))
"""
    counts, names, pixels, streamed = in_a_clean_process(code, hub, tmp_path / "user")
    assert sum(counts.values()) == 80
    assert set(counts) == {"train", "validation", "calibration", "test"}
    assert names == ["mel", "nv"]
    assert streamed
    for index in (0, 41):
        own = np.asarray(Image.open(io.BytesIO(jpeg_of(index)))).tobytes()
        assert pixels[f"image{index:03}"] == hashlib.sha256(own).hexdigest()
