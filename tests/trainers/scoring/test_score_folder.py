"""What the command writes is what the model says, of one image and of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hub_models.configuration_lesion import DECISION_RULES
from hub_models.infer_lesion import INFERENCES as MODEL_INFERENCES
from trainers import score

KEYS = (
    *(
        "image",
        "predicted",
        "prob_mel",
        "prob_nv",
        "prob_bkl",
        "p_malignant",
        "predictive_entropy",
        "aleatoric",
        "epistemic",
    ),
    *(
        "band",
        "prediction_set",
        "ood_score",
        "is_ood",
        "abstain",
        "reason",
        "message",
        "decision",
        "malignancy",
        "error",
    ),
)
LABELS = ["mel", "nv", "bkl"]
N = 11
Run = Callable[..., tuple[int, str, str]]


def test_the_ways_of_asking_are_the_models() -> None:
    assert score.INFERENCES == MODEL_INFERENCES
    assert score.DECISIONS == DECISION_RULES


def test_one_image_is_answered_in_words_and_as_json(ours: Path, images: Path, run: Run, answer_to: Any) -> None:
    path = images / "i00.png"
    answer = answer_to(ours, path)
    code, out, _ = run("--model", ours, "--images", path)
    assert code == 0
    assert out.startswith(f"i00.png: {answer['message']}\n")
    assert f"{answer['probabilities']['mel']:.3f}  Melanoma" in out
    assert f"(reason: {answer['reason']})" in out
    code, out, _ = run("--model", ours, "--images", path, "--json")
    assert code == 0
    assert json.loads(out) == {"image": "i00.png", **answer}


def test_of_a_file_of_several_images_the_first_is_scored(ours: Path, tmp_path: Path, run: Run) -> None:
    first, second = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    first.save(tmp_path / "one.tif")
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    answers = {}
    for name in ("one", "two"):
        code, out, error = run("--model", ours, "--images", tmp_path / f"{name}.tif", "--json")
        assert code == 0
        assert ("two.tif holds several images" in error) == (name == "two")
        answers[name] = json.loads(out)["probabilities"]
    assert answers["one"] == answers["two"]
    (tmp_path / "notes.txt").write_text("no image")
    code, shown, _ = run("--model", ours, "--images", tmp_path, "--out", tmp_path / "out")
    assert code == 0
    assert "passed over: 1 (.txt 1)" in shown
    scored = json.loads((tmp_path / "out" / "summary.json").read_text())["scored"]
    assert (scored["images"], scored["several_frames"], scored["passed_over"]) == (2, 1, {".txt": 1})


def test_a_folder_gives_one_row_an_image(
    ours: Path, images: Path, tmp_path: Path, run: Run, answer_to: Any, close: Any, rows_of: Any
) -> None:
    out = tmp_path / "out"
    code, shown, _ = run("--model", ours, "--images", images, "--out", out, "--batch_size", 4)
    assert code == 0
    assert "1 of them could not be read" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["answers.csv", "answers.parquet", "summary.json"]
    rows = rows_of(out)
    assert tuple(rows[0]) == KEYS
    names = [f"i{number:02d}.png" for number in range(7)] + [f"b/i{number:02d}.png" for number in range(7, N)]
    assert [row["image"] for row in rows] == names
    verdicts = set()
    for row in rows:
        if row["image"] == "b/i08.png":
            assert row["error"].startswith("b/i08.png cannot be")
            assert {row[name] for name in KEYS[1:-1]} == {""}
            continue
        assert row["error"] == ""
        close(row, answer_to(ours, images / row["image"]))
        verdicts.add(row["reason"])
    assert len(verdicts) > 1
    table = pq.read_table(out / "answers.parquet")
    assert table.column_names == list(KEYS)
    for name in ("prob_mel", "predictive_entropy", "ood_score"):
        assert [float(row[name]) for row in rows if row[name]] == [v for v in table[name].to_pylist() if v is not None]
    summary = json.loads((out / "summary.json").read_text())
    sums = "".join(f"{hashlib.sha256((images / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    assert summary["scored"]["manifest"] == "sha256:" + hashlib.sha256(sums.encode()).hexdigest()
    assert (summary["scored"]["images"], summary["scored"]["errors"]) == (N, 1)
    reasons = [row["reason"] for row in rows if row["reason"]]
    assert summary["scored"]["reasons"] == {name: reasons.count(name) for name in set(reasons)}
    assert sum(summary["scored"]["bands"].values()) == N - 1
    assert summary["model"]["revision"] is None
    assert summary["provenance"]["command"].startswith("trainers/score.py --model ours --images clinic")
    assert summary["provenance"]["packages"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("inference", ["tta", "mc_dropout"])
def test_other_ways_of_asking(
    ours: Path, images: Path, tmp_path: Path, run: Run, inference: str, answer_to: Any, close: Any, rows_of: Any
) -> None:
    words = ("--inference", inference, "--samples", 5, "--seed", 2, "--batch_size", 1)
    assert run("--model", ours, "--images", images, "--out", tmp_path / "out", *words)[0] == 0
    row = rows_of(tmp_path / "out")[3]
    close(row, answer_to(ours, images / row["image"], inference=inference, samples=5, seed=2))
    assert row["band"] == row["prediction_set"] == ""
    assert row["reason"] in ("other_inference", "out_of_distribution")
    assert float(row["epistemic"]) > 0


def test_a_prior_shifts_and_an_estimate_is_of_the_answers(
    ours: Path, images: Path, tmp_path: Path, run: Run, answer_to: Any, close: Any, rows_of: Any
) -> None:
    words = ("--model", ours, "--images", images)
    assert run(*words, "--out", tmp_path / "out", "--prior", "mel=0.5,nv=0.3,bkl=0.2")[0] == 0
    row = rows_of(tmp_path / "out")[1]
    close(row, answer_to(ours, images / row["image"], prior={"mel": 0.5, "nv": 0.3, "bkl": 0.2}))
    code, shown, _ = run(*words, "--out", tmp_path / "estimated", "--estimate_prior")
    assert code == 0
    found = json.loads((tmp_path / "estimated" / "summary.json").read_text())["estimated_prior"]
    kept = [row for row in rows_of(tmp_path / "estimated") if row["is_ood"] == "false"]
    assert 0 < found["images"] == len(kept) < N - 1
    probs = np.array([[float(row[f"prob_{label}"]) for label in LABELS] for row in kept])
    start = np.array([0.2, 0.5, 0.3])
    prior = start.copy()
    for _ in range(found["iterations"]):  # Saerens et al. 2002, equation 2.9
        reweighted = probs * prior / start
        prior = (reweighted / reweighted.sum(axis=1, keepdims=True)).mean(axis=0)
    assert [found["value"][label] for label in LABELS] == pytest.approx(prior, abs=1e-5)
    assert "estimated prior of" in shown
    assert "bias per class" in found["caution"], "its calibration is a scalar"
    assert f"caution: {found['caution']}" in shown


def test_a_decision_rule_is_chosen_for_a_run(
    ours: Path, images: Path, tmp_path: Path, run: Run, answer_to: Any, close: Any, rows_of: Any
) -> None:
    words = ("--model", ours, "--images", images, "--decision")
    assert run(*words, "balanced", "--out", tmp_path / "out")[0] == 0
    rows = [row for row in rows_of(tmp_path / "out") if not row["error"]]
    assert {row["decision"] for row in rows} == {"balanced"}
    assert {row["reason"] for row in rows} == {"other_decision", "out_of_distribution"}
    assert {row["malignancy"] for row in rows} >= {"", "flagged"}
    close(rows[1], answer_to(ours, images / rows[1]["image"], decision="balanced"))
    scored = json.loads((tmp_path / "out" / "summary.json").read_text())["scored"]
    assert (scored["decision"], sum(scored["malignancy"].values())) == ("balanced", N - 1)
    code, _, error = run(*words, "cost", "--out", tmp_path / "cost")
    assert (code, "needs a fitted cost matrix" in error) == (2, True)
    assert not (tmp_path / "cost").exists()


def test_metadata_reaches_the_model_and_gaps_stay_unknown(
    fusion: Path, images: Path, tmp_path: Path, run: Run, answer_to: Any, close: Any, rows_of: Any
) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("image,age,sex,dx\ni00,80,female,nv\ni01.png,,male,mel\n")
    words = ("--model", fusion, "--images", images, "--no_trust")
    code, shown, _ = run(*words, "--out", tmp_path / "out", "--metadata", table)
    assert code == 0
    rows = rows_of(tmp_path / "out")
    records: list[dict[str, Any]] = [{"age": 80, "sex": "female"}, {"sex": "male"}, {}]
    for row, record in zip(rows, records, strict=False):
        close(row, answer_to(fusion, images / row["image"], record, trust=False))
    assert rows[0]["prob_mel"] != pytest.approx(
        answer_to(fusion, images / "i00.png", {}, trust=False)["probabilities"]["mel"]
    )
    assert "does not read dx" in shown
    assert "9 of 11 images have no row" in shown
    code, shown, _ = run(*words, "--out", tmp_path / "without")
    assert code == 0
    assert "also reads age, sex: without --metadata all of it is unknown" in shown
    close(rows_of(tmp_path / "without")[2], answer_to(fusion, images / "i02.png", {}, trust=False))
    code, shown, _ = run("--model", fusion, "--images", images / "i00.png", "--no_trust", "--metadata", table, "--json")
    assert code == 0
    record = {"age": 80, "sex": "female"}
    assert (
        json.loads(shown)["probabilities"]
        == answer_to(fusion, images / "i00.png", record, trust=False)["probabilities"]
    )
