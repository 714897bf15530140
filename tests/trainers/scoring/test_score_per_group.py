"""Answers per group: the pooled probabilities, what holds for one image alone, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.scoring.groups import NOTHING_USABLE, SEVERAL_IMAGES, pooled

LABELS = ("mel", "nv", "bkl")
# Eleven images, i08 of them broken: two of three images, one of four, one whose images are unlike, one alone.
GROUPS = {f"i{number:02d}.png": f"visit {number // 3}" for number in range(10)} | {"i10.png": ""}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "visits.csv"
    rows = [f"{image},{'nv' if group != 'visit 1' else 'mel'},{group}" for image, group in GROUPS.items()]
    path.write_text("\n".join(["image,label,visit", *rows]))
    return path


def read(path: Path, key: str) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def test_the_pool_is_the_renormalised_geometric_mean() -> None:
    found = pooled(np.array([[0.8, 0.1, 0.1], [0.2, 0.4, 0.4]]))
    means = np.sqrt([0.16, 0.04, 0.04])
    assert found == pytest.approx(means / means.sum())
    assert pooled(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx([1.0, 0.0])
    assert pooled(np.array([[0.3, 0.7]])) == pytest.approx([0.3, 0.7])


def test_each_group_has_an_answer_of_its_images(
    ours: Path, images: Path, table: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "out"
    words = ("--labels", table, "--group_column", "visit", "--bootstrap_replicates", 10)
    code, _, err = run("--model", ours, "--images", images, "--out", out, *words)
    assert code == 0, err
    assert "not read: visit" not in err
    groups, answers = read(out / "groups.csv", "group"), read(out / "answers.csv", "image")
    by_name = {Path(name).name: row for name, row in answers.items()}
    assert list(groups) == ["visit 0", "visit 1", "visit 2", "visit 3", "image b/i10.png"]
    for group, row in groups.items():
        members = [by_name[name] for name, own in GROUPS.items() if (own or f"image b/{name}") == group]
        usable = [one for one in members if not one["error"] and one["is_ood"] == "false"]
        assert (int(row["images"]), int(row["used"])) == (len(members), len(usable))
        if len(members) == 1:
            assert {name: row[name] for name in members[0] if name != "image"} == {
                name: value for name, value in members[0].items() if name != "image"
            }
        elif not usable:
            assert (row["reason"], row["predicted"], row["abstain"]) == (NOTHING_USABLE, "", "true")
        else:
            logs = np.log([[float(one[f"prob_{label}"]) for label in LABELS] for one in usable]).mean(axis=0)
            expected = np.exp(logs) / np.exp(logs).sum()
            assert [float(row[f"prob_{label}"]) for label in LABELS] == pytest.approx(expected, abs=1e-9)
            assert row["predicted"] == LABELS[int(expected.argmax())]
            assert float(row["p_malignant"]) == pytest.approx(expected[0], abs=1e-9)
            assert (row["reason"], row["band"], row["prediction_set"], row["abstain"]) == (SEVERAL_IMAGES, "", "", "")
    summary = json.loads((out / "summary.json").read_text())["groups"]
    assert (summary["groups"], summary["of_several_images"], summary["largest"]) == (5, 3, 3)
    answered = [row for row in groups.values() if row["predicted"] and row["label"]]
    right = np.mean([row["predicted"] == row["label"] for row in answered])
    assert summary["accuracy"]["value"] == pytest.approx(right)
    assert summary["accuracy"]["n"] == len(answered)


@pytest.mark.parametrize("words", [(), ("--labels", "table")])
def test_a_column_that_no_table_has_is_refused(
    ours: Path, images: Path, table: Path, tmp_path: Path, run: Any, words: tuple[str, ...]
) -> None:
    given = [table if word == "table" else word for word in words]
    code, _, err = run(
        "--model", ours, "--images", images, "--out", tmp_path / "o", *given, "--group_column", "patient"
    )
    assert code == 2
    assert "--group_column 'patient'" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()
