"""Scoring refuses what cannot be meant in one line that names the value and what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTImageProcessor

from datasets_scripts.command import run
from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig
from trainers import score
from trainers.scoring.scorer import Scorer

LABELS = {0: "mel", 1: "nv"}


def tiny_resnet(**changes: Any) -> ResNetConfig:
    values = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic", "id2label": LABELS}
    return ResNetConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models ``ours`` (never fitted), ``peer``, ``headless``, ``twice``, ``remote``; images in ``clinic``; tables."""
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    config = MobileNetLesionConfig(id2label=LABELS, backbone="mobilenetv2_035", image_size=32)
    MobileNetForLesionClassification(config).save_pretrained(place / "ours")
    LesionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "ours")
    ResNetForImageClassification(tiny_resnet()).save_pretrained(place / "peer")
    ResNetModel(tiny_resnet()).save_pretrained(place / "headless")
    ResNetForImageClassification(tiny_resnet(id2label={0: "mel", 1: "mel"})).save_pretrained(place / "twice")
    (place / "remote").mkdir()
    (place / "remote" / "config.json").write_text(
        json.dumps({"model_type": "other", "auto_map": {"AutoConfig": "configuration_other.OtherConfig"}})
    )
    (place / "clinic" / "b").mkdir(parents=True)
    (place / "bare").mkdir()
    (place / "bare" / "notes.txt").write_text("no image")
    for name in ("peer", "headless", "twice"):
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / name)
    for name in ("x.png", "y.png", "b/z.png", "b/w.png", "w.png"):
        Image.fromarray(np.full((20, 20, 3), 120, np.uint8)).save(place / "clinic" / name)
    (place / "broken.png").write_bytes(b"no image")
    tables = {
        "good": "image,label\nx,mel\ny,nv\n",
        "no_label_column": "image,diagnosis\nx,mel\n",
        "no_image_column": "photo,label\nx,mel\n",
        "empty": "image,label\n",
        "twice": "image,label\nx,mel\nx,nv\n",
        "two_names": "image,label\nx,mel\nx.png,nv\n",
        "two_meanings": "image,label\nz,mel\nb/w.png,nv\n",
        "ambiguous": "image,label\nw,mel\n",
        "absent": "image,label\nx,mel\nelsewhere,nv\nb/x.png,mel\n",
        "unknown_label": "image,label\nx,mel\ny,melanosis\n",
        "bad_age": "image,label,age\nx,mel,450\n",
        "patients": "image,age,sex\nx,45,female\n",
    }
    for name, text in tables.items():
        (place / f"{name}.csv").write_text(text)
    (place / "latin.csv").write_bytes("image,label\nx,mél\n".encode("latin-1"))
    (place / "full").mkdir()
    (place / "full" / "something").write_text("here")
    (place / "busy.partial").mkdir()
    (place / "busy.partial" / "something").write_text("here")
    return place


OUT = ("--out", "out")
NO = ("--no_trust",)
REFUSED = {
    "no such images": (("--images", "nowhere"), "--images 'nowhere' does not exist: give an image file or a folder"),
    "a folder without out": (("--images", "clinic"), "--images 'clinic' is a folder: add --out DIR"),
    "no image in it": (("--images", "bare", *OUT), "--images 'bare' holds no image (.jpg, "),
    "labels without out": (("--images", "clinic/x.png", "--labels", "good.csv"), "--labels writes files: add --out"),
    "estimate without out": (("--images", "clinic/x.png", "--estimate_prior"), "--estimate_prior writes files"),
    "json of a folder": (("--images", "clinic", *OUT, "--json"), "--json prints the answer to one image"),
    "both priors": ((*OUT, "--prior", "mel=0.5,nv=0.5", "--estimate_prior"), "--prior and --estimate_prior were both"),
    "a full folder": (("--out", "full"), "the output folder 'full' is not empty"),
    "another's work": (("--out", "busy", *NO), "'busy.partial' is not of this command"),
    "an unreadable image": (("--images", "broken.png", *NO), "--images broken.png cannot be opened as an image"),
    "batch size 0": ((*OUT, "--batch_size", "0"), "argument --batch_size: 0: give a whole number, at"),
    "half a process": ((*OUT, "--processes", "1.5"), "argument --processes: 1.5: give a whole number, at least 1"),
    "a seed below 0": ((*OUT, "--seed=-1"), "argument --seed: -1 is no whole number from 0 to 4294967295"),
    "another inference": ((*OUT, "--inference", "magic"), "argument --inference: invalid choice: 'magic'"),
    "no such model": (("--model", "nowhere", *OUT), "--model 'nowhere' is neither a folder that exists nor ORG/NAME"),
    "an empty revision": (("--model", "org/name@", *OUT), "--model 'org/name@' is neither a folder"),
    "no model in it": (("--model", "clinic", *OUT), "--model 'clinic' has no config.json"),
    "never fitted": (OUT, "--model ours has no trust (this model has no fitted temperature, prior, "),
    "never fitted, fix": (OUT, "fit it with `python -m trainers.fit_trust ours ...`, or add --no_trust"),
    "no prior known": ((*OUT, *NO, "--prior", "mel=0.5,nv=0.5"), "--prior needs the prior that --model ours was"),
    "no prior to start from": ((*OUT, *NO, "--estimate_prior"), "--estimate_prior needs the prior that --model ours"),
    "a prior of no form": ((*OUT, "--prior", "mel:0.5"), "--prior has 'mel:0.5': give name=share for each class"),
    "a prior of no number": ((*OUT, "--prior", "mel=half,nv=0.5"), "--prior has 'mel=half'"),
    "a prior twice": ((*OUT, "--prior", "mel=0.5,mel=0.5"), "--prior names 'mel' twice"),
    "a peer's prior": (("--model", "peer", *OUT, "--prior", "mel=0.5,nv=0.5"), "--model peer is not of this suite: "),
    "a peer's views": (("--model", "peer", *OUT, "--inference", "tta"), "is not of this suite: leave --inference out"),
    "a peer's metadata": (("--model", "peer", *OUT, "--metadata", "patients.csv"), "peer looks at images alone: "),
    "a peer's estimate": (("--model", "peer", *OUT, "--estimate_prior"), "--estimate_prior needs the prior that"),
    "a head at random": (("--model", "headless", *OUT), "--model headless lacks 2 of its weights, such as 'classifier"),
    "one name twice": (("--model", "twice", *OUT), "--model twice has the classes ['mel', 'mel']: give one with two"),
    "code of its own": (("--model", "remote", *OUT), "--model remote needs code that lies beside its weights"),
    "metadata for nothing": (
        (*OUT, *NO, "--metadata", "patients.csv"),
        "ours looks at images alone: leave",
    ),
    "no label column": ((*OUT, "--labels", "no_label_column.csv"), "has no column 'label' (it has: image, diagnosis)"),
    "no image column": ((*OUT, "--labels", "no_image_column.csv"), "has no column 'image' (it has: photo, label)"),
    "no labels file": ((*OUT, "--labels", "nowhere.csv"), "--labels 'nowhere.csv' cannot be read (No such file"),
    "not UTF-8": ((*OUT, "--labels", "latin.csv"), "--labels latin.csv is not UTF-8 text"),
    "no row": ((*OUT, "--labels", "empty.csv"), "--labels empty.csv holds no image"),
    "one image twice": ((*OUT, "--labels", "twice.csv"), "--labels twice.csv names image 'x' twice"),
    "one image by two names": ((*OUT, "--labels", "two_names.csv"), "'x.png' and 'x' are both 'x.png'"),
    "one name of two images": ((*OUT, "--labels", "ambiguous.csv"), "'w' may be 'w.png' or 'b/w.png'"),
    "images that are not there": ((*OUT, "--labels", "absent.csv"), "2 of 3 images are not in --images 'clinic', the"),
    "a label it does not know": (
        (*OUT, *NO, "--labels", "unknown_label.csv"),
        "has 1 label that the model does not know: 'melanosis' (1 row, nearest 'mel')",
    ),
    "the labels it knows": ((*OUT, *NO, "--labels", "unknown_label.csv"), "it knows mel, nv: name them so"),
    "an age of no one": ((*OUT, *NO, "--labels", "bad_age.csv"), "image x has age '450'; give years from 0 to 120"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_meant_is_one_line(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[case]
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    monkeypatch.chdir(place)
    given = [
        word
        for name, value in (("--model", "ours"), ("--images", "clinic"))
        if name not in words
        for word in (name, value)
    ]
    monkeypatch.setattr(sys, "argv", ["trainers/score.py", *given, *words])
    with pytest.raises(SystemExit) as stopped:
        run(score.main)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


def test_a_row_may_name_one_of_two_images_in_full(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "ours", "--images", "clinic", "--no_trust", "--labels", "two_meanings.csv"]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["trainers/score.py", *words, "--out", str(tmp_path / "out")])
    score.main()
    assert "2 labelled images" in capsys.readouterr().out


def test_nothing_to_evaluate_is_stated_and_the_answers_are_kept(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"no image")
    words = ["--model", str(place / "ours"), "--images", str(tmp_path / "images"), "--no_trust"]
    words += ["--labels", str(place / "good.csv"), "--out", str(tmp_path / "out")]
    (tmp_path / "images" / "y.png").write_bytes(b"no image either")
    monkeypatch.setattr(sys, "argv", ["trainers/score.py", *words])
    with pytest.raises(SystemExit) as stopped:
        run(score.main)
    assert stopped.value.code == 2
    assert "no image that has a label could be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    words.remove("--labels")
    words.remove(str(place / "good.csv"))
    words[-1] = str(tmp_path / "answers")
    monkeypatch.setattr(sys, "argv", ["trainers/score.py", *words])
    score.main()
    assert "2 of them could not be read" in capsys.readouterr().out
    assert json.loads((tmp_path / "answers" / "summary.json").read_text())["scored"]["errors"] == 2


def test_a_processor_that_makes_several_rows_of_one_image_is_refused() -> None:
    scorer = Scorer.__new__(Scorer)
    scorer.fields = []
    scorer.processor = lambda images, return_tensors: {"pixel_values": torch.zeros(5, 3, 8, 8)}
    with pytest.raises(ValueError, match="'pixel_values': 5"):
        scorer.prepare(Image.new("RGB", (8, 8)), {})
