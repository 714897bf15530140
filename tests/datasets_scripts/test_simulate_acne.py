"""The simulated study: what is written as true is true of the numbers, and the same seed gives the same bytes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.command import UserError, run
from datasets_scripts.simulate_acne import (
    BASELINE,
    Design,
    main,
    parse_effect,
    simulate,
    truth_file,
)

QUIET = Design(patient_sd=0, response_sd=0, noise_sd=0, autocorrelation=0)


def column(rows: list, patient: str, treatment: str) -> np.ndarray:
    return np.array([row[3] for row in rows if row[0] == patient and row[2] == treatment])


def test_without_chance_severity_is_level_plus_effect_plus_trend() -> None:
    study = simulate(Design(**{**vars(QUIET), "patients": 2, "days": 3, "trend": 0.5}), seed=1)
    first = [row for row in study.rows if row[0] == "p01"]
    assert [row[1] for row in first] == list(range(1, 10))
    assert [row[2] for row in first] == [BASELINE] * 3 + ["Antibiotics"] * 3 + ["Cream"] * 3
    # 50, less 12 under antibiotics and 4 under the cream, half a point more a day.
    assert [row[3] for row in first] == [50, 50.5, 51, 39.5, 40, 40.5, 49, 49.5, 50]


def test_the_responses_written_down_are_those_of_the_numbers() -> None:
    study = simulate(Design(noise_sd=0.0, patients=40, days=2), seed=3)
    for name, person in study.truth["patients"].items():
        for treatment, response in person["responses"].items():
            found = column(study.rows, name, treatment).mean() - column(study.rows, name, BASELINE).mean()
            assert found == pytest.approx(response, abs=0.011)  # severity has two decimals
        assert column(study.rows, name, BASELINE).mean() == pytest.approx(person["level"], abs=0.006)
    responses = np.array([list(person["responses"].values()) for person in study.truth["patients"].values()])
    assert np.abs(responses.mean(axis=0) - [-12, -4]).max() < 3 * 4 / np.sqrt(40)
    assert 2.8 < responses.std(axis=0, ddof=1).min() <= responses.std(axis=0, ddof=1).max() < 5.2


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_days_have_the_given_autocorrelation_and_spread(rho: float) -> None:
    design = Design(patients=1, days=20000, effects={"Cream": 0.0}, response_sd=0, patient_sd=0, autocorrelation=rho)
    severity = np.array([row[3] for row in simulate(design, seed=0).rows]) - 50
    assert severity.std() == pytest.approx(5, rel=0.03)
    for lag in (1, 2):
        assert np.corrcoef(severity[:-lag], severity[lag:])[0, 1] == pytest.approx(rho**lag, abs=0.03)


def test_orders_missing_days_and_lengths() -> None:
    fixed = simulate(Design(), seed=0).truth["patients"]
    assert {tuple(person["order"]) for person in fixed.values()} == {(BASELINE, "Antibiotics", "Cream")}
    mixed = simulate(Design(order="random", patients=30, shortest=5), seed=0)
    orders = {tuple(person["order"]) for person in mixed.truth["patients"].values()}
    assert len(orders) > 3
    lengths = [
        len(column(mixed.rows, name, treatment))
        for name in mixed.truth["patients"]
        for treatment in (BASELINE, "Antibiotics", "Cream")
    ]
    assert min(lengths) >= 5
    assert max(lengths) <= 28
    assert len(set(lengths)) > 10
    gaps = simulate(Design(missing=0.3, patients=40), seed=0)
    assert len(gaps.rows) / (40 * 84) == pytest.approx(0.7, abs=0.03)
    assert max(row[1] for row in gaps.rows) <= 84


def test_a_seed_is_a_study() -> None:
    assert simulate(Design(), 5).rows == simulate(Design(), 5).rows
    assert simulate(Design(), 5).rows != simulate(Design(), 6).rows
    # Three standard deviations of the default study stay well within the scale.
    assert simulate(Design(), 5).truth["values_outside_0_to_100"] == 0
    low = simulate(Design(level=2.0), 5)
    assert low.truth["values_outside_0_to_100"] == sum(not 0 <= row[3] <= 100 for row in low.rows) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 0}, "0 patients: give at least 1"),
        ({"days": 0}, "0 days a treatment"),
        ({"shortest": 40}, "the shortest phase of 40 days: give 1 to 28"),
        ({"effects": {}}, "no treatment beside the baseline"),
        ({"effects": {BASELINE: 1.0}}, "an effect of 'Baseline'"),
        ({"effects": {"baseline": -3.0}}, "an effect of 'Baseline'"),
        ({"effects": {"Cream": -4.0, "cream": 3.0}}, "the treatments Cream, cream differ by capitals alone"),
        ({"patients": 10**9}, "1000000000 patients of 28 days a treatment are 84,000,000,000 days: give fewer"),
        ({"days": 10**12}, "give fewer, 1,000,000 at most"),
        ({"level": 1e308}, r"a number beyond 10,000 points among 1e\+308"),
        ({"effects": {"Cream": -1e5}}, "a number beyond 10,000 points"),
        ({"trend": 9999.0}, "a trend of 9999 points a day over 84 days: give a smaller one"),
        ({"noise_sd": -1.0}, "a standard deviation below 0"),
        ({"level": float("nan")}, "not finite"),
        ({"autocorrelation": 1.0}, "an autocorrelation of 1.0"),
        ({"missing": 1.0}, "1.0 as the share of missing days"),
        ({"order": "best first"}, "the order 'best first'"),
    ],
)
def test_what_cannot_be_simulated_is_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Design(**change)


def test_every_day_may_not_be_missing() -> None:
    with pytest.raises(UserError, match=r"all days are missing at a share of 0\.99"):
        simulate(Design(patients=1, days=1, missing=0.99), seed=0)


def test_the_command_writes_the_table_and_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "study.csv"
    main(["--out", str(out), "--patients", "3", "--days", "4", "--effect", "Laser=-6", "--seed", "9"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["patient", "day", "treatment", "severity"]
    assert len(rows) == 3 * 2 * 4
    truth = json.loads(truth_file(out).read_text())
    assert truth_file(out).name == "study.truth.json"
    assert truth["effects"] == {"Laser": -6.0}
    assert truth["autocorrelation"] == 0.5
    assert set(truth["patients"]) == {"p01", "p02", "p03"}
    assert "no patient exists" in truth["note"]
    assert "Laser -6" in capsys.readouterr().out
    assert sorted(path.name for path in out.parent.iterdir()) == ["study.csv", "study.truth.json"]
    again = tmp_path / "again.csv"
    main(["--out", str(again), "--patients", "3", "--days", "4", "--effect", "Laser=-6", "--seed", "9"])
    assert again.read_bytes() == out.read_bytes()
    assert truth_file(again).read_bytes() == truth_file(out).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "there.csv"], "'there.csv' exists already"),
        (["--out", "half.csv"], "'half.truth.json' exists already"),
        (["--out", "study.txt"], "is no table's name: end it in .csv"),
        (["--out", "new.csv", "--seed", "-1"], "--seed -1: give 0 or more"),
        (
            ["--out", "new.csv", "--effect", "A=1", "--effect", "A=2"],
            "--effect names a treatment twice (A, A): give each once",
        ),
        (["--out", "new.csv", "--effect", "Cream"], "'Cream' is no effect: give NAME=POINTS"),
        (["--out", "new.csv", "--effect", "Cream=inf"], "'Cream=inf' is no effect"),
        (["--out", "new.csv", "--autocorrelation", "1"], "an autocorrelation of 1.0"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.csv").write_text("x")
    Path("half.truth.json").write_text("x")
    with pytest.raises(SystemExit) as stopped:
        run(lambda: main(words))
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.truth.json", "there.csv"]


def test_an_effect_is_a_name_and_points() -> None:
    assert parse_effect(" Gel = 5 % = -3.5") == ("Gel = 5 %", -3.5)
