"""The command from a table to a folder: what it writes, what it warns of, what it withholds."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from scipy.stats import ttest_rel

from datasets_scripts.simulate_acne import Design, SimulatedStudy, simulate
from datasets_scripts.simulate_acne import write as write_simulated
from trainers.longitudinal import analysis as analysis_module
from trainers.longitudinal.analysis import DEFAULT, METHODS
from trainers.longitudinal.mixed import NotConvergedError

FILES = ["README.md", "effects.csv", "effects.md", "figures", "patients.csv", "report.json"]
Run = Callable[..., tuple[int, str, str]]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def simulated_study(tmp_path: Path) -> tuple[Path, SimulatedStudy]:
    """A user's kind of table: missing days, phases of unequal length; and the truth about it."""
    drawn = simulate(Design(missing=0.15, shortest=12), seed=2)
    write_simulated(drawn, tmp_path / "study.csv")
    return tmp_path / "study.csv", drawn


@pytest.mark.usefixtures("painted")
def test_it_writes_what_it_found(simulated_study: tuple[Path, SimulatedStudy], tmp_path: Path, run: Run) -> None:
    data, drawn = simulated_study
    out = tmp_path / "out"
    code, output, warned = run("--data", data, "--out", out)
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert not (tmp_path / "out.partial").exists()

    effects = rows_of(out / "effects.csv")
    assert [(row["treatment"], row["method"]) for row in effects] == [
        (name, method) for name in ("Antibiotics", "Cream") for method in METHODS
    ]
    means = {
        name: [
            np.mean([row[3] for row in drawn.rows if row[0] == patient and row[2] == name])
            for patient in drawn.truth["patients"]
        ]
        for name in ("Baseline", "Antibiotics", "Cream")
    }
    for row in (row for row in effects if row["default"] == "true"):
        expected = ttest_rel(means[row["treatment"]], means["Baseline"])
        assert float(row["p"]) == pytest.approx(expected.pvalue)
        low, high = expected.confidence_interval()
        assert (float(row["low"]), float(row["high"])) == (pytest.approx(low), pytest.approx(high))
        assert low <= drawn.truth["effects"][row["treatment"]] <= high
        assert row["patients"] == "10"
        assert f"{row['treatment']} against Baseline: {float(row['estimate']):+.1f} (" in output

    patients = rows_of(out / "patients.csv")
    assert len(patients) == 20
    inside = [
        float(row["low"])
        <= drawn.truth["patients"][row["patient"]]["responses"][row["treatment"]]
        <= float(row["high"])
        for row in patients
    ]
    assert sum(inside) >= 16
    for row in patients:
        words = {"better": "Better during ", "worse": "Worse during ", "no clear change": "No clear change during "}
        assert row["sentence"].startswith(words[row["verdict"]] + row["treatment"])
        assert row["sentence"].endswith("is not known from this study.")
        assert float(row["p_better"]) + float(row["p_worse"]) == pytest.approx(1)
        # The mixed model's own prediction lies near; it takes days for independent.
        assert float(row["blup"]) == pytest.approx(float(row["shrunken"]), abs=3)

    report = json.loads((out / "report.json").read_text())
    assert report["schema_version"] == 1
    assert "Not a medical device" in report["notice"]
    assert [str(entry["estimate"]) for entry in report["effects"]] == [row["estimate"] for row in effects]
    assert report["data"]["days"] == len(drawn.rows)
    assert report["day_noise"]["rho"] == pytest.approx(0.5, abs=0.15)
    assert {entry["confounded"] for entry in report["diagnostics"]["order"]} == {"fully"}
    assert report["versions"]["statsmodels"]
    assert [model["converged"] for model in report["diagnostics"]["models"].values()] == [True, True]

    readme = (out / "README.md").read_text()
    assert readme.index("Not a medical device") < readme.index("Read this first") < readme.index("## Effects")
    assert (out / "effects.md").read_text() in readme
    for entry in report["figures"]:
        assert (out / entry["file"]).stat().st_size > 10_000
        assert entry["file"] in readme
    assert [line.removeprefix("warning: ") for line in warned.strip().splitlines()] == report["warnings"]
    assert "Antibiotics, Cream: always given later than Baseline" in report["warnings"][0]
    assert "days resemble the day before (autocorrelation 0." in report["warnings"][-1]


def test_an_order_by_lot_and_independent_days_are_not_warned_of(tmp_path: Path, run: Run) -> None:
    write_simulated(simulate(Design(order="random", patients=40, days=10, autocorrelation=0), 1), tmp_path / "s.csv")
    code, _, warned = run("--data", tmp_path / "s.csv", "--out", tmp_path / "out")
    assert (code, warned) == (0, "")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Read this first" not in readme
    assert "The first 60 of 80; `patients.csv` holds all." in readme
    assert len(rows_of(tmp_path / "out" / "patients.csv")) == 80
    # Lots balance the study, never a patient: whose cream came before or behind the baseline cannot tell it from time.
    for row in rows_of(tmp_path / "out" / "patients.csv"):
        assert row["sentence"].endswith(
            " Whether the treatment or the passing of time did it is not known from this study."
        )
        assert "; if nothing else changed with time, probability that it was " in row["sentence"]


def test_a_patient_with_treatment_and_baseline_in_turns_is_not_warned_of_time(
    tmp_path: Path, write: Callable[..., Path], run: Run
) -> None:
    rng = np.random.default_rng(4)
    turns = {"a": "BCCB", "b": "CBBC", "c": "BBCC", "d": "CCBB"}
    names = {"B": "Baseline", "C": "Cream"}
    rows = [
        (who, 10 * phase + day, names[letter], round(50 - 8 * (letter == "C") + float(rng.normal(0, 2)), 2))
        for who, letters in turns.items()
        for phase, letter in enumerate(letters)
        for day in range(10)
    ]
    assert run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")[0] == 0
    output = {row["patient"]: row["sentence"] for row in rows_of(tmp_path / "out" / "patients.csv")}
    assert ["passing of time" in output[who] for who in "abcd"] == [False, False, True, True]
    assert ["if nothing else changed" in output[who] for who in "abcd"] == [False, False, True, True]


def test_where_severity_drifts_no_patient_is_reported_as_better_or_worse(tmp_path: Path, run: Run) -> None:
    """An audit's study: p02's antibiotics helped by 6.6 points, came last, and the trend made them look harmful."""
    write_simulated(simulate(Design(order="random", patients=8, trend=0.3), 5), tmp_path / "s.csv")
    code, _, warned = run("--data", tmp_path / "s.csv", "--out", tmp_path / "out")
    assert code == 0
    assert "severity moved during Baseline already" in warned
    rows = rows_of(tmp_path / "out" / "patients.csv")
    assert {row["verdict"] for row in rows} == {"lower", "no clear change", "higher"}
    for row in rows:
        assert row["sentence"].startswith(f"{row['verdict'].capitalize()} during ")
        assert " Severity moved during Baseline already; that drift is part of this number." in row["sentence"]
    higher = next(row for row in rows if (row["patient"], row["treatment"]) == ("p02", "Antibiotics"))
    assert higher["sentence"].startswith("Higher during Antibiotics: ")
    assert "if nothing else changed with time, probability that it was higher: over 99 %" in higher["sentence"]


def test_differences_that_are_all_one_number_tell_nobody_anything(
    tmp_path: Path, write: Callable[..., Path], run: Run
) -> None:
    rows = [
        (f"p{number}", 10 * phase + day, name, 40 + number - 5 * phase + (day % 3))
        for number in range(5)
        for phase, name in enumerate(("Baseline", "Cream"))
        for day in range(9)
    ]
    code, output, _ = run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")
    assert code == 0
    assert "withheld: all patients differ by the same number" in output
    for row in rows_of(tmp_path / "out" / "patients.csv"):
        assert (row["verdict"], row["p_better"], row["shrunken"]) == ("", "", "")
        assert row["sentence"].startswith("No estimate for this patient alone: all patients differ by the same")


def test_a_treatment_of_one_patient_says_nothing_of_further_ones(
    tmp_path: Path, write: Callable[..., Path], balanced_rows: Callable[..., list[Any]], run: Run
) -> None:
    rows = [row for row in balanced_rows() if row[2] != "B" or row[0] == "p3"]
    assert run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["differences_between_patients"]["B"].values()) == {None}
    assert None not in report["differences_between_patients"]["A"].values()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "- B: too few patients had it to say how far patients differ" in readme


def test_options_are_heard(
    tmp_path: Path, write: Callable[..., Path], balanced_rows: Callable[..., list[Any]], run: Run
) -> None:
    data = write(tmp_path / "s.csv", balanced_rows())
    words = ["--baseline", "b", "--treatments", "A", "--confidence", 0.9, "--relevant", 4]
    code, _, _ = run("--data", data, "--out", tmp_path / "out", *words)
    assert code == 0
    effects = rows_of(tmp_path / "out" / "effects.csv")
    assert {(row["treatment"], row["baseline"], row["confidence"]) for row in effects} == {("A", "B", "0.9")}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"] == {"confidence": 0.9, "sure": 0.95, "relevant": 4.0}
    assert report["diagnostics"]["rows_of_other_treatments"] == 96
    assert report["warnings"][0].startswith("A: always given earlier than B")
    sentences = (tmp_path / "out" / "patients.csv").read_text()
    assert "more than 4 points lower: " in sentences
    assert "(90 % interval: " in sentences


def test_a_model_that_does_not_converge_is_withheld_and_the_default_stands(
    tmp_path: Path,
    write: Callable[..., Path],
    balanced_rows: Callable[..., list[Any]],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write(tmp_path / "s.csv", balanced_rows())

    def fail(study: Any, random_effects: bool) -> None:
        raise NotConvergedError("lbfgs and powell: did not converge")

    monkeypatch.setattr(analysis_module, "fit_mixed", fail)
    code, output, warned = run("--data", data, "--out", tmp_path / "out")
    assert code == 0
    for row in rows_of(tmp_path / "out" / "effects.csv"):
        if row["method"] == DEFAULT:
            assert row["withheld"] == ""
            assert float(row["low"]) < float(row["estimate"]) < float(row["high"])
        else:
            assert row["withheld"] == "the model did not converge (lbfgs and powell: did not converge)"
            assert {row[name] for name in ("estimate", "low", "high", "standard_error", "p", "p_holm")} == {""}
    assert {row["blup"] for row in rows_of(tmp_path / "out" / "patients.csv")} == {""}
    assert "warning: random_intercept: all entries of the effect table are withheld, the model did not" in warned
    assert "warning: random_effects and random_effects_t: all entries of the effect table are withheld" in warned
    table = (tmp_path / "out" / "effects.md").read_text()
    assert table.count("withheld: the model did not converge") == 6
    assert "  A against Baseline: -" in output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["diagnostics"]["residuals"] is None
    assert not any(model["converged"] for model in report["diagnostics"]["models"].values())


def test_days_that_say_nothing_leave_the_patients_without_a_number(
    tmp_path: Path, write: Callable[..., Path], run: Run
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"p{number}", day, name, round(50 - 5 * day + float(rng.normal(0, 3)), 1))
        for number in range(6)
        for day, name in ((0, "Baseline"), (1, "Cream"))
    ]
    code, _, _ = run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")
    assert code == 0
    effects = {row["method"]: row for row in rows_of(tmp_path / "out" / "effects.csv")}
    assert effects[DEFAULT]["withheld"] == ""
    assert "no day differs from what it predicts" in effects["random_effects"]["withheld"]
    for row in rows_of(tmp_path / "out" / "patients.csv"):
        assert row["difference"] != ""
        assert {row[name] for name in ("shrunken", "low", "high", "p_better", "p_worse", "verdict", "blup")} == {""}
        assert row["sentence"].startswith("No estimate for this patient alone")
    assert not (tmp_path / "out" / "figures" / "patients.png").exists()


def test_an_effect_without_pairs_is_withheld_by_every_method(
    tmp_path: Path, write: Callable[..., Path], balanced_rows: Callable[..., list[Any]], run: Run
) -> None:
    rows = [*balanced_rows(), *(("p9", day, "C|<new>", 40 + day % 3) for day in range(5))]
    code, output, warned = run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")
    assert code == 0
    of_c = [row for row in rows_of(tmp_path / "out" / "effects.csv") if row["treatment"] == "C|<new>"]
    assert {row["withheld"] for row in of_c} == {"no patient has days under it and the baseline, two are needed"}
    assert {row["estimate"] for row in of_c} == {""}
    assert "C|<new> against Baseline: withheld: no patient" in output
    assert "warning: C|<new>, patient_means: the effect is withheld" in warned
    assert "| C\\|&lt;new> |" in (tmp_path / "out" / "effects.md").read_text()


@pytest.mark.usefixtures("painted")
@pytest.mark.filterwarnings("error")
def test_names_of_any_kind_are_drawn(
    tmp_path: Path, write: Callable[..., Path], balanced_rows: Callable[..., list[Any]], run: Run
) -> None:
    """A name is no formula, may be longer than a chart is wide, and in a script that the font lacks."""
    names = {"p0": r"$\frac$", "p1": "$5", "p2": "x" * 300, "p3": "x" * 299 + "y", "p4": "\u5c0f\u6797", "p5": "_p5"}
    kinds = {"Baseline": r"$\nothing$", "A": "\u8f6f\u818f", "B": "a very long name of a treatment " * 8 + "$x^$"}
    rows = [(names.get(who, who), day, kinds[kind], value) for who, day, kind, value in balanced_rows()]
    words = ["--baseline", r"$\nothing$", "--out", tmp_path / "out"]
    code, _, error = run("--data", write(tmp_path / "s.csv", rows), *words)
    assert code == 0
    assert [line for line in error.splitlines() if not line.startswith("warning: ")] == []
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 5
    assert {row["patient"] for row in rows_of(tmp_path / "out" / "patients.csv")} == {row[0] for row in rows}


def test_a_slip_of_the_pen_is_warned_of(
    tmp_path: Path, write: Callable[..., Path], balanced_rows: Callable[..., list[Any]], run: Run
) -> None:
    rows = balanced_rows()
    rows[40] = (*rows[40][:3], 100000)
    code, _, error = run("--data", write(tmp_path / "s.csv", rows), "--out", tmp_path / "out")
    assert code == 0
    assert f"'p1' on day {rows[40][1]} (100000); a slip of the pen" in error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["severity"] for row in report["diagnostics"]["far_off"]] == [100000]


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["--confidence", "1"], "--confidence 1: give 0.5 or more, below 1"),
        (["--confidence", "nan"], "--confidence nan"),
        (["--sure", "0.2"], "--sure 0.2: give 0.5 or more, below 1"),
        (["--relevant", "-1"], "--relevant -1: give 0 or more, in points"),
        (["--relevant", "inf"], "--relevant inf"),
        (["--data", "nowhere.csv"], "'nowhere.csv' cannot be read"),
        (["--out", "full"], "the output folder 'full' is not empty: choose another --out"),
        (["--out", "s.csv"], "'s.csv' is a file, not a folder: choose another --out"),
    ],
)
def test_options_that_cannot_be_meant(
    words: list[str],
    output: str,
    tmp_path: Path,
    write: Callable[..., Path],
    balanced_rows: Callable[..., list[Any]],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.csv", balanced_rows())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    code, out, error = run("--data", "s.csv", "--out", "out", *words)
    assert (code, out) == (2, "")
    assert len(error.strip().splitlines()) == 1
    assert output in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "s.csv"]


@pytest.mark.parametrize("start", [["trainers/fit_acne_longitudinal.py"], ["-m", "trainers.fit_acne_longitudinal"]])
def test_it_starts_as_a_script_and_as_a_module(
    start: list[str],
    tmp_path: Path,
    write: Callable[..., Path],
    balanced_rows: Callable[..., list[Any]],
    repo_root: Path,
) -> None:
    data = write(tmp_path / "s.csv", balanced_rows(patients=3, days=5))
    words = [*start, "--data", str(data), "--out", str(tmp_path / "out")]
    done = processes.run([sys.executable, *words], cwd=repo_root)
    assert done.returncode == 0, done.stderr
    assert "never a medical device" in done.stdout
    assert "3 patients" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
