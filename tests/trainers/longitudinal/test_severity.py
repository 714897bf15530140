"""Severity from images: the scores and the visits become a study; end to end on drawn phantoms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig
from trainers import score
from trainers.longitudinal import severity
from trainers.longitudinal.severity import join, parse_grades, read_scores

Run = Callable[..., tuple[int, str, str]]
LABELS = {0: "acne", 1: "nv", 2: "bkl"}
VISITS = "image,patient,day,treatment"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random classifier that knows acne by name alone."""
    folder = tmp_path_factory.mktemp("models") / "tiny-derm-x"
    torch.manual_seed(0)
    config = MobileNetLesionConfig(id2label=LABELS, backbone="mobilenetv2_035", image_size=32)
    tiny = MobileNetForLesionClassification(config)
    for module in tiny.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=3.0)
    tiny.save_pretrained(folder)
    LesionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def written(path: Path, rows: list[tuple[Any, ...]], header: str = VISITS) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_drawn_photographs_to_effects(model: Path, tmp_path: Path, run: Run) -> None:
    visits = []
    for number, patient in enumerate(("ann", "bob", "cem")):
        (tmp_path / "photos" / patient).mkdir(parents=True)
        for day in range(1, 9):
            label = "acne" if day <= 4 else "clear"  # drawn: lesions at baseline, clear skin under the gel
            for view in (0, 1) if day == 2 else (0,):
                name = f"{patient}/day{day}-{view}.png"
                image = draw(label, 10 * number + day, (48, 36), view)
                (tmp_path / "photos" / name).write_bytes(image.png())
                visits.append((name, patient, day, "Baseline" if day <= 4 else "Gel"))
    (tmp_path / "photos" / "bob" / "day7-0.png").write_bytes(b"no image")
    table = written(tmp_path / "visits.csv", visits)
    scores, data, out = tmp_path / "scores", tmp_path / "study.csv", tmp_path / "out"

    words = ["--model", model, "--images", tmp_path / "photos", "--no_trust", "--out", scores]
    assert run(*words, main=score.main)[0] == 0
    words = ["--scores", scores, "--visits", table, "--class", "acne", "--out", data]
    code, output, _ = run(*words, main=severity.main)
    assert code == 0
    assert "24 days of 3 patients" in output
    assert "1 scored images could not be read" in output
    assert "no validated severity score" in output

    probability = {row["image"]: row["prob_acne"] for row in rows_of(scores / "answers.csv")}
    rows = {(row["patient"], int(row["day"])): row for row in rows_of(data)}
    assert rows["bob", 7]["severity"] == ""
    for (patient, day), row in rows.items():
        lost = (patient, day) == ("bob", 7)
        names = [] if lost else [f"{patient}/day{day}-{view}.png" for view in ((0, 1) if day == 2 else (0,))]
        views = [100 * float(probability[name]) for name in names]
        assert int(row["images"]) == len(views)
        if views:
            assert float(row["severity"]) == pytest.approx(sum(views) / len(views))
        assert row["treatment"] == ("Baseline" if day <= 4 else "Gel")

    code, output, warned = run("--data", data, "--out", out)
    assert code == 0
    assert "Gel against Baseline: " in output
    meaning = "100 x the probability of 'acne' by tiny-derm-x in images, no validated severity score"
    assert f"warning: severity here is {meaning}" in warned
    report = json.loads((out / "report.json").read_text())
    assert report["data"]["severity_is"].startswith(meaning)
    assert (report["data"]["patients"], report["data"]["days"]) == (3, 23)
    assert meaning in (out / "README.md").read_text()


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Answers as ``trainers.score`` writes them: one image the gate declines, one unreadable."""
    folder = tmp_path / "scores"
    folder.mkdir()
    answers = [
        {"image": "a1.png", "prob_clear": 0.5, "prob_mild": 0.5, "prob_severe": 0.0, "is_ood": False},
        {"image": "a2.png", "prob_clear": 0.2, "prob_mild": 0.3, "prob_severe": 0.5, "is_ood": None},
        {"image": "far.png", "prob_clear": 0.0, "prob_mild": 0.0, "prob_severe": 1.0, "is_ood": True},
        {"image": "broken.png", "error": "cannot be opened"},
    ]
    columns = ("image", "prob_clear", "prob_mild", "prob_severe", "p_malignant", "is_ood", "error")
    rows = [{name: row.get(name) for name in columns} for row in answers]
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")
    (folder / "summary.json").write_text(json.dumps({"model": {"name": "grader"}}))
    return folder


def test_grades_are_weighted_by_their_probabilities(scores: Path) -> None:
    found = read_scores(scores, parse_grades("clear=0, mild=1, severe=3"))
    assert found.severity == {"a1.png": 0.5, "a2.png": pytest.approx(1.8), "far.png": None, "broken.png": None}
    assert (found.unreadable, found.declined) == (1, 1)
    assert found.meaning.startswith(
        "the expected grade (clear = 0, mild = 1, severe = 3) by grader in images, no valid"
    )
    kept = read_scores(scores, {"severe": 100.0}, keep_declined=True)
    assert kept.severity["far.png"] == 100
    assert kept.declined == 0


def test_images_of_a_day_are_averaged_and_lost_days_are_missed(scores: Path, tmp_path: Path, run: Run) -> None:
    visits = [("a1", "ann", 1, "Baseline"), ("a2", "ann", 1, "Baseline"), ("far", "ann", 2, "Gel")]
    table = written(tmp_path / "v.csv", [*visits, ("broken.png", "bob", 1, "Gel")])
    days, images, without_visit = join(read_scores(scores, {"severe": 100.0}), table)
    assert [(day.patient, day.day, day.treatment, day.severity) for day in days] == [
        ("ann", 1, "Baseline", 25.0),
        ("ann", 2, "Gel", None),
        ("bob", 1, "Gel", None),
    ]
    assert images == {("ann", 1): 2, ("ann", 2): 0, ("bob", 1): 0}
    assert without_visit == 0
    assert join(read_scores(scores, {"severe": 100.0}), written(tmp_path / "w.csv", visits))[2] == 1
    words = ["--scores", scores, "--visits", table, "--grades", "severe=3,mild=1", "--out", tmp_path / "s.csv"]
    code, output, _ = run(*words, "--keep_declined", main=severity.main)
    assert code == 0
    assert "3 days of 2 patients" in output
    assert [row["severity"] for row in rows_of(tmp_path / "s.csv")] == [repr((0.5 + 1.8) / 2), "3.0", ""]
    with pytest.raises(UserError, match="exists already"):
        severity.main([str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "visits", "message"),
    [
        (["--class", "acne"], [], "class 'acne' is none of the model's (clear, mild, severe)"),
        (["--class", "malignant"], [], "class 'malignant' is none of the model's"),
        (["--grades", "mild=x"], [], "--grades has 'mild=x': give NAME=GRADE"),
        (["--grades", "mild=1,mild=2"], [], "--grades names 'mild' twice"),
        (["--grades", "mild=1", "--class", "mild"], [], "not allowed with"),
        ([], [], "one of the arguments --class --grades is required"),
        (["--class", "mild", "--scores", "nowhere"], [], "--scores 'nowhere' holds no answers.parquet"),
        (["--class", "mild", "--scores", "odd"], [], "answers.parquet of --scores 'odd' cannot be read"),
        (["--class", "mild", "--visits", "nowhere.csv"], [], "--visits 'nowhere.csv' cannot be read"),
        (["--class", "mild", "--out", "no/s.csv"], [], "its folder does not exist"),
        (["--class", "mild", "--out", "v.csv"], [], "'v.csv' exists already"),
        (["--class", "mild"], [("other", "ann", 2, "Gel")], "image 'other' was not scored"),
        (["--class", "mild"], [("a2", "ann", 1, "Gel")], "has day 1 of patient 'ann' under 'Baseline' and 'Gel'"),
        (["--class", "mild"], [("a2", "ann", "May", "Gel")], "patient 'ann' has day 'May'"),
        (["--class", "mild"], [("a1", "ann", 2, "Gel")], "names image 'a1' twice"),
    ],
)
def test_scores_and_visits_that_make_no_study(
    words: list[str],
    visits: list[tuple[Any, ...]],
    message: str,
    scores: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "answers.parquet").write_bytes(b"no table")
    written(tmp_path / "v.csv", [("a1", "ann", 1, "Baseline"), *visits])
    code, _, error = run("--scores", "scores", "--visits", "v.csv", "--out", "s.csv", *words, main=severity.main)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "scores", "v.csv"]


def test_visits_need_their_columns(scores: Path, tmp_path: Path, run: Run) -> None:
    table = written(tmp_path / "v.csv", [("a1", "ann", 1)], "image,patient,day")
    words = ["--scores", scores, "--visits", table, "--class", "mild", "--out", tmp_path / "s.csv"]
    code, _, error = run(*words, main=severity.main)
    assert code == 2
    assert "has no column 'treatment'" in error
