"""The promise, measured: the default's intervals hold the true effects, the published model's do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.longitudinal import coverage
from trainers.longitudinal.analysis import DEFAULT, METHODS
from trainers.longitudinal.coverage import SETTINGS, markdown, measure, patients_summed, summed


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_the_default_has_no_bias_and_keeps_its_coverage(setting: str) -> None:
    found = measure(SETTINGS[setting], 200, 1000, [DEFAULT], patients=False)["methods"][DEFAULT]
    assert abs(found["bias"]) < 3 * found["bias_se"]
    assert found["bias_se"] < 0.1
    assert 0.92 <= found["coverage"] <= 0.98
    assert found["withheld"] == 0


def test_the_published_model_promises_too_much_and_the_default_does_not() -> None:
    studies = 16
    found = {name: measure(SETTINGS[name], studies, 3000, patients=False)["methods"] for name in list(SETTINGS)[:3]}
    # Truth: about 0.76 and 0.51 (200 studies); a band of three Monte Carlo standard errors about them.
    assert found["AR(1) 0.5"]["random_intercept"]["coverage"] < 0.90
    assert found["patients respond differently"]["random_intercept"]["coverage"] < 0.70
    for methods in found.values():
        assert methods[DEFAULT]["coverage"] >= 0.86
        assert methods["random_effects_t"]["coverage"] >= 0.86
        assert methods["random_effects_t"]["withheld"] <= 0.1
        # Balanced studies: every method gives the same effect, and differs in its interval alone.
        assert methods["random_intercept"]["bias"] == pytest.approx(methods[DEFAULT]["bias"], abs=0.01)


@pytest.mark.parametrize("setting", list(SETTINGS)[2:])
def test_the_sentences_of_patients_are_true(setting: str) -> None:
    found = measure(SETTINGS[setting], 30, 7000, [DEFAULT])["patients"]
    assert 0.91 <= found["coverage"] <= 0.98
    assert found["better"]["told"] > 0.6
    assert found["better"]["right"] > 0.97
    assert found["worse"]["told"] > 0


def test_sums_by_hand() -> None:
    found = summed([[(1.0, True, 4.0), (3.0, False, 4.0)], [(-2.0, True, 6.0)], []])
    # Means of the studies: 2 and -2; coverage 0.5 and 1; widths 4 and 6.
    assert found["bias"] == 0
    assert found["bias_se"] == pytest.approx(2)
    assert found["coverage"] == 0.75
    assert found["coverage_se"] == pytest.approx(0.25)
    assert found["width"] == 5
    assert found["withheld"] == pytest.approx(1 / 3)
    assert summed([[], []]) == {**dict.fromkeys(("bias", "bias_se", "coverage", "coverage_se", "width")), "withheld": 1}
    verdicts = patients_summed(
        [[(True, "better", -1.0), (False, "better", 2.0)], [(True, "worse", 3.0), (True, "", 0.0)]]
    )
    assert verdicts["coverage"] == 0.75
    assert verdicts["better"] == {"told": 0.5, "right": 0.5}
    assert verdicts["worse"] == {"told": 0.25, "right": 1.0}


def test_the_command_prints_the_tables(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    words = ["--studies", 2, "--patients", 4, "--days", 10, "--methods", DEFAULT, "--out", tmp_path / "c.json"]
    code, out, _ = run(*words, main=coverage.main)
    assert code == 0
    results = json.loads((tmp_path / "c.json").read_text())
    assert list(results) == list(SETTINGS)
    assert markdown(results) in out
    assert out.count(METHODS[DEFAULT]) == 4
    again = run(*words, main=coverage.main)
    assert again[1] == out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--studies", "1"], "--studies 1: give 2 or more"),
        (["--patients", "1"], "--patients 1: give 2 or more"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["--out", "no/where.json"], "its folder does not exist"),
        (["--out", "/"], "--out '/' is a folder: name a file, for example '/coverage.json'"),
        (["--out", "/proc/c.json"], "'/proc/c.json' cannot be written"),
        (["--patients", "1000000"], "1000000 patients of 28 days a treatment are 84,000,000 days: give fewer"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], message: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = run(*words, main=coverage.main)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
