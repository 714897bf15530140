"""A model with sets and bands by group gets the group from the tables, and from the record of the pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from hub_models import PIPELINE_TASK

Run = Callable[..., tuple[int, str, str]]
SEXES = {"i00.png": "F", "i01.png": "male", "i02.png": "", "b/i07.png": "female"}


@pytest.fixture(scope="module")
def by_sex(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, with sets of every class for women."""
    folder = tmp_path_factory.mktemp("models") / "by_sex"
    shutil.copytree(ours, folder)
    config = json.loads((folder / "config.json").read_text())
    sets = {**config["trust"]["conformal"], "qhat": [None, None, None]}
    pooled = {"conformal": "3 lesions", "bands": "3 lesions"}
    values = {"female": {"conformal": sets, "pooled": {}}, "male": {"pooled": pooled}}
    config["trust"]["groups"] = {"column": "sex", "read_from": "sex", "values": values}
    config["trust"]["ood"]["threshold"] = 1.0
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check(answers: dict[str, dict[str, Any]], all_classes: Any) -> None:
    whose = {name: answer["message"] for name, answer in answers.items()}
    for name in ("i00.png", "b/i07.png"):
        assert answers[name]["prediction_set"] == all_classes
        assert "The prediction set is that of sex female, the uncertainty band that of all groups" in whose[name]
    assert "all groups together: there are too few calibration lesions of sex male" in whose["i01.png"]
    assert "all groups together: the sex is not known" in whose["i02.png"]
    assert answers["i01.png"]["prediction_set"] != all_classes


@pytest.mark.parametrize("option", ["--metadata", "--labels"])
def test_the_group_is_taken_from_a_column(
    by_sex: Path, images: Path, tmp_path: Path, run: Run, rows_of: Any, option: str
) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out"
    lines = [f"{image},nv,{sex}" for image, sex in SEXES.items()]
    table.write_text("\n".join(["image,label,sex", *lines]) + "\n")
    words = ("--model", by_sex, "--images", images, "--out", out, option, table, "--bootstrap_replicates", 5)
    code, _, error = run(*words)
    assert (code, error) == (0, error)
    check({row["image"]: row for row in rows_of(out)}, "mel nv bkl")
    if option == "--labels":
        rows = json.loads((out / "report.json").read_text())["trust_evaluation"]["groups"]["rows"]
        assert [(row["value"], row["n"]) for row in rows] == [("female", 2), ("male", 1), ("unknown", 1)]


def test_a_table_that_the_model_cannot_use_is_named(by_sex: Path, images: Path, tmp_path: Path, run: Run) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out"
    table.write_text("image,localization\ni00.png,back\n")
    code, _, error = run("--model", by_sex, "--images", images, "--out", out, "--metadata", table)
    assert (code, out.exists()) == (2, False)
    assert "table.csv has none of the columns that the model reads: give image,sex" in error


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_pipeline_takes_the_group_of_a_record(by_sex: Path, images: Path, loaded: Any, batch_size: int) -> None:
    asking = loaded(by_sex)
    classify = pipeline(PIPELINE_TASK, model=asking.model, image_processor=asking.processor, device=-1)
    records = [{"image": str(images / name), "sex": sex.replace("F", "Female")} for name, sex in SEXES.items()]
    answers = classify(records, batch_size=batch_size)
    check(dict(zip(SEXES, answers, strict=True)), ["mel", "nv", "bkl"])
    by_call = classify(str(images / "i01.png"), group="female")
    assert by_call["prediction_set"] == ["mel", "nv", "bkl"]
    assert classify({"image": str(images / "i01.png"), "group": "female"}) == by_call
    given = asking.processor([str(images / "i01.png")] * 2, return_tensors="pt")
    two = asking.model.predict(**given, group=["female", None])
    assert two[0]["prediction_set"] == by_call["prediction_set"] != two[1]["prediction_set"]
    assert torch.is_tensor(given["pixel_values"])
