"""Scoring a submission of the challenge: udacity's and the challenge's own tables, and everything wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shared_fixtures import call, refused
from sklearn import metrics as sk

from trainers import isic2017_results
from trainers.evaluation.isic2017_submission import pair, plain_id, results

TRUTH = """image_id,melanoma,seborrheic_keratosis
ISIC_0012258,1.0,0.0
ISIC_0012356,1.0,0.0
ISIC_0012369,0.0,0.0
ISIC_0012395,0.0,1.0
ISIC_0012425,0.0,1.0
"""
SUBMISSION = """Id,task_1,task_2
data/test/seborrheic_keratosis/ISIC_0012425.jpg,0.5,3.88E-33
data/test/melanoma/ISIC_0012258.jpg,0.9,0
data\\test\\melanoma\\ISIC_0012356.JPG,0.2,0.1
data/test/nevus/ISIC_0012369.jpg,0.1,0.3
data/test/seborrheic_keratosis/ISIC_0012395.jpg,0,0.8
"""


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "sub.csv", tmp_path / "truth.csv"
    for path, text in zip(paths, (SUBMISSION, TRUTH), strict=True):
        path.write_text(text)
    return paths


def test_tables_are_paired_by_file_name_in_the_truths_order(tables: tuple[Path, Path]) -> None:
    positive, scores, ids = pair(*tables)
    assert ids[0] == "ISIC_0012258"
    assert positive.tolist() == [[True, False], [True, False], [False, False], [False, True], [False, True]]
    assert scores[:, 0].tolist() == [0.9, 0.2, 0.1, 0.0, 0.5]
    assert scores[:, 1].tolist() == [0.0, 0.1, 0.3, 0.8, 3.88e-33]


@pytest.mark.parametrize(
    ("text", "plain"),
    [("ISIC_1", "ISIC_1"), ("a/b/ISIC_1.jpg", "ISIC_1"), ("a\\ISIC_1.PNG", "ISIC_1"), ("x.y.jpeg", "x.y")],
)
def test_an_id_may_be_a_path(text: str, plain: str) -> None:
    assert plain_id(text) == plain


@pytest.mark.usefixtures("painted")
def test_the_command_prints_the_three_scores_and_draws(tables: tuple[Path, Path], tmp_path: Path) -> None:
    """Melanoma: of 2 x 3 pairs 0.9 wins 3, 0.2 wins 2: 5/6. Keratosis: 0.8 wins 3, 3.88e-33 beats 0.0 alone: 4/6."""
    out = tmp_path / "scores"
    printed = call(isic2017_results.main, *tables, "--out", out)
    assert "category 1, AUC, melanoma against the rest: 0.833 (" in printed
    assert "category 2, AUC, seborrheic keratosis against the rest: 0.667 (" in printed
    assert "category 3, AUC, mean of the two: 0.750 (" in printed
    assert "recall of melanoma called at p >= 0.5: 0.500 (" in printed
    assert sorted(path.name for path in out.iterdir()) == ["confusion_matrix.png", "roc.png", "scores.json"]
    for name in ("roc.png", "confusion_matrix.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 400
    scores = json.loads((out / "scores.json").read_text())
    assert scores["confusion_at_threshold"] == {"task_1": [[2, 1], [1, 1]], "task_2": [[3, 0], [1, 1]]}
    assert scores["auc_mean"]["method"].startswith("bootstrap by image")


def test_another_threshold_moves_recall_and_no_auc(tables: tuple[Path, Path], tmp_path: Path) -> None:
    half, low = (results(*tables, tmp_path / str(value), value, 50) for value in (0.5, 0.2))
    assert half["auc_melanoma"] == low["auc_melanoma"]
    assert low["at_threshold"]["recall"]["value"] == 1.0
    assert low["at_threshold"]["specificity"]["value"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_larger_pair_agrees_with_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 300)
    scores = np.round(rng.random((300, 2)) * 0.5 + 0.3 * np.stack([label == 0, label == 2], axis=1), 2)
    predicted, true = tmp_path / "predicted.csv", tmp_path / "true.csv"
    predicted.write_text("Id,task_1,task_2\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(scores)))
    true.write_text("Id,task_1,task_2\n" + "".join(f"{i},{int(x == 0)},{int(x == 2)}\n" for i, x in enumerate(label)))
    found = results(predicted, true, tmp_path / "out", 0.5, 100)
    each = [sk.roc_auc_score(label == 0, scores[:, 0]), sk.roc_auc_score(label == 2, scores[:, 1])]
    assert found["auc_melanoma"]["value"] == pytest.approx(each[0], abs=1e-6)
    assert found["auc_keratosis"]["value"] == pytest.approx(each[1], abs=1e-6)
    assert found["auc_mean"]["value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["at_threshold"]["recall"]["value"] == pytest.approx(
        sk.recall_score(label == 0, scores[:, 0] >= 0.5), abs=1e-6
    )


@pytest.mark.parametrize(
    ("which", "old", "new", "says"),
    [
        (0, "0.9,0\n", "1.7,0\n", "image 'ISIC_0012258', task_1 is '1.7': give a number from 0 to 1"),
        (0, "0.9,0\n", "high,0\n", "task_1 is 'high'"),
        (0, "0.9,0\n", "nan,0\n", "task_1 is 'nan'"),
        (0, "0.9,0\n", ",0\n", "task_1 is ''"),
        (0, "ISIC_0012425", "ISIC_0012258", "names image 'ISIC_0012258' twice"),
        (0, "ISIC_0012425", "ISIC_0099999", "lacks 1 of the 5 images"),
        (0, "task_1", "melanoma_score", "has the columns Id, melanoma_score, task_2"),
        (0, SUBMISSION, "Id,task_1,task_2\n", "holds no image"),
        (0, SUBMISSION, "", "has the columns none"),
        (1, "ISIC_0012425,0.0,1.0\n", "", "lacks 1 of the 5 images"),
        (1, "ISIC_0012369,0.0,0.0", "ISIC_0012369,0.4,0.0", "says 0.4 and 0: the truth is 0 or 1"),
        (1, "ISIC_0012369,0.0,0.0", "ISIC_0012369,1,1", "says 1 and 1"),
        (1, "1.0,0.0", "0.0,0.0", "holds 0 melanoma among 5 images"),
        (1, "0.0,1.0", "0.0,0.0", "holds 0 seborrheic keratosis among 5 images"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(
    tables: tuple[Path, Path],
    tmp_path: Path,
    which: int,
    old: str,
    new: str,
    says: str,
) -> None:
    text = tables[which].read_text()
    assert old in text
    tables[which].write_text(text.replace(old, new))
    assert says in refused(isic2017_results.main, *tables, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threshold", ["0", "1.5", "half"])
def test_an_impossible_threshold_is_refused(tables: tuple[Path, Path], threshold: str) -> None:
    assert "threshold" in refused(isic2017_results.main, *tables, "--threshold", threshold)


def test_a_missing_file_and_a_file_for_a_folder_are_named(tables: tuple[Path, Path], tmp_path: Path) -> None:
    main = isic2017_results.main
    gone = refused(main, tmp_path / "nowhere.csv", tables[1])
    assert "nowhere.csv cannot be read (No such file or directory)" in gone
    assert "cannot be made a folder (File exists)" in refused(main, *tables, "--out", tables[0])
    tables[0].write_bytes(b"\xff\xfe\x00")
    assert "sub.csv is not UTF-8 text" in refused(main, *tables)
