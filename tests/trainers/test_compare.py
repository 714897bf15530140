"""The comparison command: what it reads, refuses, prints and writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from datasets_scripts.command import run as run_command
from trainers import compare as command
from trainers.evaluation.comparison import load
from trainers.evaluation.comparison_tables import p_value, title
from trainers.evaluation.report import evaluate
from trainers.metrics.predictions import Predictions, write_predictions

LABELS = ["nv", "mel", "df"]


def drawn(seed: int, strength: float = 1.5, n: int = 90) -> Predictions:
    """One to two images per lesion, the same images and truths for every seed."""
    truth = np.random.default_rng(7)
    lesion = np.sort(truth.integers(0, 60, n))
    label = truth.integers(0, 3, 60)[lesion]
    rng = np.random.default_rng(seed)
    ids = np.array([f"l{number}" for number in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"i{number}" for number in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=(strength * np.eye(3)[label] + rng.normal(size=(n, 3)))[:, None],
        labels=LABELS,
        label_names={name: name for name in LABELS},
        label_groups={"mel": "malignant"},
        split="test",
        config_name="grouped",
        dataset="drawn",
    )


def folder(path: Path, predictions: Predictions, temperature: float | None = 1.3) -> Path:
    path.mkdir()
    write_predictions(predictions, path / "predictions_test.parquet")
    if temperature is not None:
        report = {"schema_version": 1, "trust": {"temperature": {"value": temperature}}}
        (path / "report.json").write_text(json.dumps(report))
    return path


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    return folder(tmp_path / "one", drawn(0, 1.0)), folder(tmp_path / "two", drawn(1, 2.5), 0.8)


def test_what_is_fitted_a_class_is_in_the_logits_before_classes_are_put_in_another_order(tmp_path, two):
    biased = folder(tmp_path / "biased", drawn(1, 2.5), 0.8)
    report = json.loads((biased / "report.json").read_text())
    report["trust"]["temperature"] |= {"kind": "bias_corrected", "bias": [0.5, -0.25, -0.25]}
    (biased / "report.json").write_text(json.dumps(report))
    loaded, plain = load(biased), load(two[1])
    assert (loaded.temperature, plain.temperature) == (1.0, 0.8)
    assert "with a bias per class, in the logits already" in loaded.temperature_from
    expected = plain.predictions.logits / 0.8 + np.array([0.5, -0.25, -0.25])
    np.testing.assert_allclose(loaded.predictions.logits, expected, atol=1e-6)


def run(monkeypatch, capsys, *words: object) -> str:
    monkeypatch.setattr("sys.argv", ["compare", "--replicates", "200", *map(str, words)])
    run_command(command.main)
    return capsys.readouterr().out


def refused(monkeypatch, capsys, *words: object) -> str:
    """The one line that a mistake ends in."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, *words)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_values_are_those_of_the_reports(two, monkeypatch, capsys, tmp_path):
    out = tmp_path / "numbers.json"
    shown = run(monkeypatch, capsys, *two, "--classes", "mel", "df", "--out", out)
    result = json.loads(out.read_text())
    reports = [evaluate(drawn(0, 1.0), 1.3, replicates=5), evaluate(drawn(1, 2.5), 0.8, replicates=5)]
    for side, report in zip("AB", reports, strict=True):
        found = result["sides"][side]
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc_macro", "auroc_malignant"):
            assert found[name]["value"] == pytest.approx(report["discrimination"][name]["value"], abs=2e-6)
        for name in ("nll", "brier", "ece", "ece_debiased"):
            assert found[name]["value"] == pytest.approx(report["calibration"]["after"][name]["value"], abs=2e-6)
        assert found["recall mel"]["value"] == pytest.approx(report["per_class"][1]["recall"]["value"], abs=2e-6)
    nll = result["comparisons"][0]["differences"]["nll"]
    gap = [report["calibration"]["after"]["nll"]["value"] for report in reports]
    assert nll["value"] == pytest.approx(gap[1] - gap[0], abs=3e-6)
    assert nll["high"] < 0
    assert nll["p"] == pytest.approx(1 / 201)
    relative = result["comparisons"][0]["relative_change"]["nll"]
    assert relative["value"] == pytest.approx(gap[1] / gap[0] - 1, abs=1e-5)
    assert "| recall df ↑ |" in shown
    assert f"NLL (nats) {100 * relative['value']:+.0f} %" in shown
    assert f"90 images of {reports[0]['n_groups']} lesions" in shown
    assert str(tmp_path) not in out.read_text() + shown
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_against_itself_differs_in_nothing(two, monkeypatch, capsys, tmp_path):
    out = tmp_path / "same.json"
    run(monkeypatch, capsys, two[0], two[0] / "predictions_test.parquet", "--out", out)
    comparison = json.loads(out.read_text())["comparisons"][0]
    assert {change["value"] for change in comparison["differences"].values()} == {0.0}
    assert {change["p"] for change in comparison["differences"].values()} == {1.0}
    assert comparison["mcnemar"]["p"] == 1.0


def test_the_origin_of_the_temperature_is_stated(tmp_path, monkeypatch, capsys):
    bare = folder(tmp_path / "bare", drawn(2), None)
    config = folder(tmp_path / "config", drawn(2), None)
    (config / "config.json").write_text(json.dumps({"trust": {"temperature": {"value": 2.0}}}))
    shown = run(monkeypatch, capsys, bare / "predictions_test.parquet", config)
    assert "predictions_test.parquet (T = 1.000, no report.json or config.json with a temperature beside it)" in shown
    assert "config (T = 2.000, its config.json)" in shown


def test_three_models_are_each_set_against_the_first(two, tmp_path, monkeypatch, capsys):
    third = folder(tmp_path / "three", drawn(3))
    shown = run(monkeypatch, capsys, *two, third)
    assert "## B against A" in shown
    assert "## C against A" in shown


def test_seeds_of_a_recipe_are_averaged_and_their_spread_is_shown(tmp_path, monkeypatch, capsys):
    a = [folder(tmp_path / f"a{seed}", drawn(seed, 1.0), 1.0) for seed in range(3)]
    b = [folder(tmp_path / f"b{seed}", drawn(10 + seed, 2.0), 1.0) for seed in range(2)]
    out = tmp_path / "seeds.json"
    shown = run(monkeypatch, capsys, "--a", *a, "--b", *b, "--out", out)
    result = json.loads(out.read_text())
    alone = [evaluate(drawn(seed, 1.0), replicates=2)["calibration"]["before"]["nll"]["value"] for seed in range(3)]
    side = result["sides"]["A"]["nll"]
    assert side["each"] == pytest.approx(alone, abs=2e-6)
    assert side["value"] == pytest.approx(np.mean(alone), abs=2e-6)
    assert side["sd"] == pytest.approx(np.std(alone, ddof=1), abs=2e-6)
    other = result["sides"]["B"]["nll"]["value"]
    assert result["comparisons"][0]["differences"]["nll"]["value"] == pytest.approx(other - side["value"], abs=3e-6)
    assert "mcnemar" not in result["comparisons"][0]
    assert "## Spread over seeds" in shown
    assert f"{side['min']:.3f} to {side['max']:.3f} ({side['sd']:.4f})" in shown


def test_the_share_of_a_gain(tmp_path, monkeypatch, capsys):
    base, full = folder(tmp_path / "base", drawn(0, 0.5)), folder(tmp_path / "full", drawn(0, 3.0))
    part = folder(tmp_path / "part", drawn(0, 1.5))
    out = tmp_path / "share.json"
    words = ("--a", base, "--b", full, "--partial", part, "--out", out)
    shown = run(monkeypatch, capsys, *words)
    shares = json.loads(out.read_text())["share_of_gain"]
    nll = {k: evaluate(drawn(0, s), 1.3, replicates=2) for k, s in (("base", 0.5), ("full", 3.0), ("part", 1.5))}
    value = {k: report["calibration"]["after"]["nll"]["value"] for k, report in nll.items()}
    expected = (value["part"] - value["base"]) / (value["full"] - value["base"])
    assert shares["nll"]["share"]["value"] == pytest.approx(expected, abs=1e-4)
    assert shares["nll"]["share"]["low"] < expected < shares["nll"]["share"]["high"]
    assert "## Share of the gain of B over A that partial alone carries" in shown
    # Without a gain there is nothing to share.
    run(monkeypatch, capsys, "--a", base, "--b", base, "--partial", part, "--out", out)
    none = json.loads(out.read_text())["share_of_gain"]["accuracy"]
    assert none["share"] == {"value": None, "why": "not defined: the gain has no interval"}


def test_other_images_need_shared(two, tmp_path, monkeypatch, capsys):
    part = folder(tmp_path / "part", drawn(4).select(np.arange(30, 90)))
    line = refused(monkeypatch, capsys, two[0], part)
    assert "60 shared, 30 only in one, 0 only in part" in line
    assert "--shared" in line
    assert "# Comparison on 60 images" in run(monkeypatch, capsys, two[0], part, "--shared")


def test_mistakes_are_one_line(two, tmp_path, monkeypatch, capsys):
    def line(*words: object) -> str:
        return refused(monkeypatch, capsys, *words)

    assert "'nowhere' does not exist" in line(two[0], "nowhere")
    assert "holds no predictions_test.parquet" in line(two[0], tmp_path)
    assert "1 model was given" in line(two[0])
    assert "nothing was given for --a" in line()
    assert "nothing was given for --b" in line("--a", two[0])
    assert "use one form" in line(two[0], "--a", two[1])
    assert "'vasc' is no class" in line(*two, "--classes", "vasc")
    assert "--replicates 3" in line(*two, "--replicates", "3")
    assert "--seed -1" in line(*two, "--seed", "-1")
    assert "its folder does not exist" in line(*two, "--out", tmp_path / "no" / "x.json")
    names = replace(drawn(0), labels=["nv", "mel", "vasc"])
    assert "mel, vasc), and those of" in line(two[0], folder(tmp_path / "names", names))
    truth = replace(drawn(0), label=(drawn(0).label + 1) % 3)
    assert "give predictions of one dataset" in line(two[0], folder(tmp_path / "truth", truth))
    assert "has the temperature -1" in line(two[0], folder(tmp_path / "cold", drawn(0), -1))
    (two[1] / "predictions_test.parquet").write_text("image,label")
    assert "cannot be read as Parquet" in line(*two)
    (two[1] / "report.json").write_text("{")
    folder(tmp_path / "broken", drawn(0))
    (tmp_path / "broken" / "report.json").write_text("{")
    assert "is not JSON" in line(two[0], tmp_path / "broken")


def test_models_of_other_classes_are_compared_on_benign_against_malignant(tmp_path, capsys, monkeypatch):
    groups = {"nv": "benign", "mel": "malignant", "df": "benign"}
    seven = replace(drawn(0), label_groups=groups)
    logits = np.stack([seven.logits[:, :, 0] + 1.0, seven.logits[:, :, 1]], axis=2)
    binary = replace(
        seven,
        labels=["malignant", "benign"],
        label=(seven.label != 1).astype(np.int64),
        logits=logits[:, :, ::-1],
        label_names={},
        label_groups={"malignant": "malignant", "benign": "benign"},
    )
    paths = folder(tmp_path / "seven", seven, 2.0), folder(tmp_path / "binary", binary, 1.0)
    out = tmp_path / "o.json"
    monkeypatch.setattr("sys.argv", ["compare", *map(str, paths), "--replicates", "100", "--out", str(out)])
    command.main()
    result = json.loads(out.read_text())
    assert result["labels"] == ["benign", "malignant"]
    assert [sorted(labels) for labels in result["own_classes"].values()] == [sorted(LABELS), ["benign", "malignant"]]
    probs = seven.probs(2.0)
    right = (probs[:, 1] >= 0.5) == (seven.label == 1)
    assert result["sides"]["A"]["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert result["sides"]["A"]["auroc_malignant"]["value"] == pytest.approx(
        roc_auc_score(seven.label == 1, probs[:, 1]), abs=1e-6
    )
    nll = -np.log(np.where(seven.label == 1, probs[:, 1], 1 - probs[:, 1])).mean()
    assert result["sides"]["A"]["nll"]["value"] == pytest.approx(nll, abs=1e-6)
    assert result["sides"]["B"]["auroc_malignant"]["value"] == pytest.approx(
        roc_auc_score(seven.label == 1, logits[:, 0, 1] - logits[:, 0, 0]), abs=1e-6
    )
    assert "different classes" in capsys.readouterr().out


def test_small_p_values_are_not_printed_as_zero():
    assert [p_value(p) for p in (None, 0.0004, 0.0204, 1.0)] == ["n/a", "<0.001", "0.020", "1.000"]


def test_a_class_name_cannot_break_a_table() -> None:
    assert title("recall a|b") == "recall a\\|b \u2191"
