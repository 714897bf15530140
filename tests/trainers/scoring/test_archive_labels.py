"""The labels of an archive for a model's classes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import TASKS
from trainers import score
from trainers.model_folder.source import parse_source
from trainers.scoring.archive_labels import model_labels, task_for, write_labels

PAD = """patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed
PAT_1,7,8,,,ARM,SEK,PAT_1_7_530.png,False
PAT_2,7,55,FEMALE,3.0,NECK,BCC,PAT_2_7_939.png,True
PAT_3,9,61,MALE,2.0,NECK,SCC,PAT_3_9_940.png,True
"""


@pytest.fixture
def pad(tmp_path: Path) -> Path:
    (tmp_path / "metadata.csv").write_text(PAD)
    for name in ("PAT_1_7_530", "PAT_2_7_939", "PAT_3_9_940"):
        (tmp_path / f"{name}.png").write_bytes(b"not read")
    return tmp_path


def test_seven_classes(pad: Path, tmp_path: Path) -> None:
    warnings = write_labels("pad_ufes_20", pad, sorted(TASKS["ham10000"]), tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["label"], row["lesion_id"], row["group_id"]) for row in rows] == [
        ("PAT_1_7_530", "bkl", "PAT_1_7", "PAT_1"),
        ("PAT_2_7_939", "bcc", "PAT_2_7", "PAT_2"),
    ]
    assert [rows[1][name] for name in ("age", "sex", "localization", "skin_tone", "diagnosis")] == [
        "55", "female", "neck", "Fitzpatrick 3", "BCC",
    ]  # fmt: skip
    assert warnings[0] == "--archive pad_ufes_20: labels of task ham10000."
    assert "1 rows have no equivalent in task ham10000 and were left out (SCC 1)." in warnings


def test_other_classes_are_compared_on_malignancy(pad: Path, tmp_path: Path) -> None:
    write_labels("pad_ufes_20", pad, ["a", "b"], tmp_path / "labels.csv")
    assert [line.split(",")[1] for line in (tmp_path / "labels.csv").read_text().splitlines()] == [
        "label", "benign", "malignant", "malignant",
    ]  # fmt: skip


def test_half_a_download_is_refused_without_an_option_that_score_lacks(pad: Path, tmp_path: Path) -> None:
    (pad / "PAT_2_7_939.png").unlink()
    with pytest.raises(UserError, match=r"1 images .* the first is PAT_2_7_939: finish the download") as raised:
        write_labels("pad_ufes_20", pad, sorted(TASKS["ham10000"]), tmp_path / "labels.csv")
    assert "--partial" not in str(raised.value)


def test_the_task_for_a_model() -> None:
    assert task_for("isic_2020", TASKS["ham10000"]) == "isic_binary"
    assert task_for("ph2", ["nv", "mel", "other"]) == "archive"
    with pytest.raises(UserError, match="did you mean pad_ufes_20"):
        task_for("pad_ufes", ["nv"])


def test_the_classes_of_a_model_by_its_config(repo_root: Path) -> None:
    source = parse_source(str(repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"))
    assert model_labels(source) == list(TASKS["ham10000"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--archive", "pad_ufes_20", "--labels", "metadata.csv"], "--archive and --labels"),
        (["--archive", "pad"], "unknown archive 'pad'"),
        (["--archive", "pad_ufes_20"], "--archive writes files: add --out"),
    ],
)
def test_options_that_cannot_be_meant(
    words: list[str], part: str, pad: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pad)
    model = str(repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7")
    given = score.make_parser().parse_args(["--model", model, "--images", str(pad), *words])
    with pytest.raises(UserError, match=part):
        score.check(given)
