"""The section of the report, against values worked out by hand; and its charts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.evaluation.explanation_table import CURVES, NUMBERS, ExplanationTable
from trainers.evaluation.explanations import explanations_section, verdict_rows
from trainers.evaluation.figures.explanations import (
    Example,
    Examples,
    draw_examples,
    draw_explanations,
    examples_caption,
    save_examples,
)

NAN = float("nan")
ABOUT = {"split": "test", "method": "grad_cam", "steps": 2, "cell": 32, "draws": 8, "blur": 0.1}


def a_table(**changes: Any) -> ExplanationTable:
    """Six images of five lesions; the fourth has no mask, the fifth no heat, and three are played with."""
    numbers = {name: np.full(6, NAN) for name in NUMBERS} | {
        "area": np.array([0.2, 0.4, 0.3, NAN, 0.5, 0.1]),
        "spread": np.array([0.3, 0.3, 0.2, 0.4, NAN, 0.1]),
        "energy": np.array([0.6, 0.8, 0.5, NAN, NAN, 0.1]),
        "energy_random": np.array([0.2, 0.4, 0.3, NAN, NAN, 0.1]),
        "energy_blob": np.array([0.5, 0.6, 0.6, NAN, NAN, 0.3]),
        "energy_other": np.array([0.4, 0.6, 0.5, NAN, NAN, NAN]),
        "pointing": np.array([1.0, 1.0, 0.5, NAN, NAN, 0.0]),
        "pointing_random": np.array([0.25, 0.5, 0.25, NAN, NAN, 0.0]),
        "pointing_blob": np.array([1.0, 1.0, 1.0, NAN, NAN, 1.0]),
        "pointing_other": np.array([0.0, 1.0, 1.0, NAN, NAN, NAN]),
        "likeness_other": np.array([0.5, -0.5, 0.3, 0.1, NAN, 0.2]),
        "repeat_difference": np.array([0.0, NAN, 0.0, NAN, 0.0, 0.25]),
        "likeness_head": np.array([0.5, NAN, 0.1, NAN, NAN, NAN]),
        "likeness_third": np.array([-0.3, NAN, 0.3, NAN, NAN, 0.0]),
        "likeness_two_thirds": np.array([0.1, NAN, 0.1, NAN, NAN, 0.1]),
        "likeness_all": np.array([0.0, NAN, 0.0, NAN, NAN, 0.0]),
    }
    curves = {name: np.full((6, 3), NAN) for name in CURVES}
    for row in (0, 2, 5):
        curves["deletion_heat_map"][row] = [0.8, 0.2, 0.4]
        curves["deletion_random"][row] = [0.8, 0.6, 0.4]
        curves["deletion_blob"][row] = [0.8, 0.1 * row, 0.4]
        curves["insertion_heat_map"][row] = [0.4, 1.0, 0.8]
        curves["insertion_random"][row] = [0.4, 0.6, 0.8]
        curves["insertion_blob"][row] = [0.4, 0.8, 0.8]
    values: dict[str, Any] = {
        "image_id": np.array([f"I{n}" for n in range(6)], dtype=object),
        "group_id": np.array(["A", "A", "B", "C", "D", "E"], dtype=object),
        "label": np.array([0, 0, 0, 1, 1, 1]),
        "predicted": np.array([0, 1, 0, 1, 0, 0]),
        "abstain": np.array([False, False, True, False, True, False]),
        "mask": np.array(["there", "there", "there", "none", "there", "there"], dtype=object),
        "numbers": numbers,
        "curves": curves,
        "labels": ["mel", "nv"],
        "about": dict(ABOUT),
    }
    return ExplanationTable(**(values | changes))


def value(number: dict[str, Any]) -> float:
    return number["value"]


def test_energy_and_pointing_by_hand() -> None:
    section = explanations_section(a_table(), replicates=200)
    inside = section["overall"]["inside"]
    assert (inside["n"], inside["n_groups"]) == (4, 3), "neither the one without a mask nor the one without heat"
    assert value(inside["area"]) == pytest.approx((0.2 + 0.4 + 0.3 + 0.1) / 4)
    energy, pointing = inside["energy"], inside["pointing"]
    assert value(energy["heat_map"]) == pytest.approx(0.5)
    assert value(energy["blob"]) == pytest.approx(0.5)
    assert value(energy["minus_blob"]) == pytest.approx(0.0)
    assert value(energy["minus_area"]) == pytest.approx((0.4 + 0.4 + 0.2 + 0.0) / 4)
    assert value(energy["other"]) == pytest.approx(0.5), "three have a partner"
    assert value(energy["minus_other"]) == pytest.approx((0.2 + 0.2 + 0.0) / 3, abs=1e-6)
    assert value(energy["times_area"]) == pytest.approx(0.5 / 0.25)
    assert value(pointing["heat_map"]) == pytest.approx(2.5 / 4)
    assert value(pointing["random"]) == pytest.approx(0.25)
    assert value(pointing["minus_blob"]) == pytest.approx(-1.5 / 4)
    assert pointing["blob"]["method"] == "exact 95 % by lesion", "four of four is no proof of always"
    assert pointing["blob"]["low"] < 1 == pointing["blob"]["high"]
    assert (section["n"], section["n_groups"], section["blank"]) == (6, 5, 1)
    assert section["masks"] == {"there": 5, "empty": 0, "none": {"nv": 1}}
    assert json.loads(json.dumps(section, allow_nan=False)) == section


def test_intervals_are_over_lesions_within_classes() -> None:
    """Class mel has the lesions A (two images) and B: a resample is AAAA, AAB or BB, so the mean is one of three."""
    rows = explanations_section(a_table(), replicates=4000)["per_class"][0]["inside"]
    energy = rows["energy"]["heat_map"]
    assert value(energy) == pytest.approx((0.6 + 0.8 + 0.5) / 3)
    assert (energy["low"], energy["high"]) == (pytest.approx(0.5), pytest.approx(0.7))
    assert energy["method"] == "bootstrap by lesion, 4000 resamples, 95 % percentile"
    blob = rows["energy"]["minus_blob"]
    assert (blob["low"], blob["high"]) == (pytest.approx(-0.1), pytest.approx((0.1 + 0.2) / 2))


def test_by_class_and_by_what_became_of_the_answer() -> None:
    section = explanations_section(a_table(), replicates=50)
    nv = section["per_class"][1]
    assert (nv["name"], nv["inside"]["n"], value(nv["inside"]["energy"]["heat_map"])) == ("nv", 1, pytest.approx(0.1))
    assert nv["inside"]["energy"]["other"] == {"value": None, "why": "not defined: no such image was measured"}
    assert [(row["name"], row["images"]) for row in section["per_verdict"]] == [
        ("right", 2),
        ("wrong", 2),
        ("declined", 2),
    ]
    right, wrong, declined = (row["inside"] for row in section["per_verdict"])
    assert value(right["energy"]["heat_map"]) == pytest.approx(0.6)
    assert value(wrong["energy"]["heat_map"]) == pytest.approx((0.8 + 0.1) / 2)
    assert value(declined["energy"]["heat_map"]) == pytest.approx(0.5)
    untrusted = verdict_rows(a_table(abstain=None))
    assert {name: np.flatnonzero(rows).tolist() for name, rows in untrusted.items()} == {
        "right": [0, 2, 3],
        "wrong": [1, 4, 5],
    }


def test_areas_under_the_curves_by_hand() -> None:
    faithful = explanations_section(a_table(), replicates=200)["overall"]["faithful"]
    assert (faithful["n"], faithful["n_groups"]) == (3, 3)
    assert value(faithful["whole"]) == pytest.approx(0.8)
    assert value(faithful["blurred"]) == pytest.approx(0.4)
    deletion, insertion = faithful["deletion"], faithful["insertion"]
    # Trapezoids of width 1/2.
    assert value(deletion["heat_map"]) == pytest.approx((0.8 + 0.2) / 4 + (0.2 + 0.4) / 4)
    assert value(deletion["minus_random"]) == pytest.approx(-0.2)
    assert value(deletion["minus_blob"]) == pytest.approx(0.2 / 2 - np.mean([0.0, 0.2, 0.5]) / 2, abs=1e-6)
    assert value(insertion["heat_map"]) == pytest.approx((0.4 + 1.0) / 4 + (1.0 + 0.8) / 4)
    assert value(insertion["minus_blob"]) == pytest.approx(0.1)
    assert deletion["minus_random"]["why"] == "the same in every resample"


def test_random_weights_count_a_blank_map_as_like_none() -> None:
    found = explanations_section(a_table(), replicates=50)["random_weights"]
    assert (found["n"], found["n_groups"]) == (3, 3), "without heat there is nothing to compare"
    head = found["stages"][0]
    assert (head["name"], value(head["likeness"])) == ("head", pytest.approx((0.5 + 0.1 + 0.0) / 3))
    assert head["blank"] == pytest.approx(1 / 3, abs=1e-6)
    assert value(found["stages"][1]["likeness"]) == pytest.approx(0.0)
    assert value(found["other_picture"]) == pytest.approx((0.5 + 0.3 + 0.2) / 3, abs=1e-6), "of the same images"


def test_members_and_repetition() -> None:
    section = explanations_section(a_table(), replicates=50)
    assert section["members"] is None
    assert "members" not in section["conventions"]
    assert section["repeated"] == {"n": 4, "largest_difference": 0.25}
    several = a_table()
    several.numbers["members"][:4] = [0.9, 0.7, 0.5, -0.1]
    found = explanations_section(several, replicates=50)
    assert found["conventions"]["members"] == "Mean Spearman correlation between the heat maps of two members."
    found = found["members"]
    assert (found["n"], found["n_groups"], value(found["likeness"])) == (4, 3, pytest.approx(0.5))


def test_nothing_measured_is_stated_without_a_number() -> None:
    bare = a_table()
    for values in (*bare.numbers.values(), *bare.curves.values()):
        values[:] = NAN
    bare = replace(bare, mask=np.full(6, "none", dtype=object), curves={name: np.zeros((6, 0)) for name in CURVES})
    section = explanations_section(bare, replicates=20)
    why = {"value": None, "why": "not defined: no such image was measured"}
    assert section["overall"]["inside"]["energy"]["heat_map"] == why
    assert section["overall"]["faithful"]["deletion"]["minus_blob"] == why
    assert section["random_weights"]["stages"][0]["likeness"] == why
    assert section["masks"]["none"] == {"mel": 3, "nv": 3}
    assert section["repeated"] == {"n": 0, "largest_difference": None}


def test_the_same_seed_gives_the_same_section() -> None:
    one, again, other = (explanations_section(a_table(), replicates=30, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.usefixtures("painted")
def test_charts_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    table = a_table()
    section = explanations_section(table, replicates=50) | {"examples": [{"file": "figures/x.png", "caption": "x"}]}
    drawn = draw_explanations(section, table, tmp_path)
    files = [f"figures/{name}.png" for name in ("heat_on_lesion_test", "heat_map_checks_test", "x")]
    assert [figure["file"] for figure in drawn] == files
    sizes = [Image.open(tmp_path / file).size for file in files[:2]]
    assert all(width > 1000 and height > 300 for width, height in sizes)
    before = [(tmp_path / file).read_bytes() for file in files[:2]]
    draw_explanations(section, table, tmp_path)
    assert [(tmp_path / file).read_bytes() for file in files[:2]] == before
    section["overall"]["inside"]["n"] = section["overall"]["faithful"]["n"] = 0
    assert draw_explanations(section, table, tmp_path) == section["examples"]


@pytest.fixture
def examples() -> Callable[..., Examples]:
    def made(*cells: tuple[str, str]) -> Examples:
        rng = np.random.default_rng(0)
        found = {}
        for label, kind in cells:
            image = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            heat, mask = rng.random((8, 8)), np.arange(64).reshape(8, 8) < 20
            found[label, kind] = Example(label, kind, "nv", image, heat, mask, 0.31)
        return Examples(found, ["mel", "nv"], ("right", "wrong", "declined"), "Drawn.")

    return made


@pytest.mark.usefixtures("painted")
def test_a_kind_without_an_example_is_named(examples: Callable[..., Examples], tmp_path: Path) -> None:
    some = examples(("mel", "right"), ("nv", "wrong"), ("nv", "declined"))
    assert some.missing() == ["mel wrong", "mel declined", "nv right"]
    caption = examples_caption(some, "grad_cam")
    assert "There was no example of: mel wrong, mel declined, nv right." in caption
    assert "Read it as where the model looked, not as a reason." in caption
    every = [(label, kind) for label in ("mel", "nv") for kind in ("right", "wrong", "declined")]
    assert "There was no example of" not in examples_caption(examples(*every), "grad_cam")
    shown = {text.get_text() for axes in draw_examples(some).axes for text in axes.texts}
    assert {
        "no example",
        "predicts nv · 31 % of the heat inside",
        "declined, leaning to nv · 31 % of the heat inside",
    } <= shown
    assert save_examples(some, tmp_path, ABOUT) == {"file": "examples/heat_maps_test.jpg", "caption": caption}
    assert Image.open(tmp_path / "examples" / "heat_maps_test.jpg").width > 1000
    none_of_one = examples(("nv", "wrong"))
    assert none_of_one.missing() == ["mel of any kind", "nv right", "nv declined"]
    assert len(draw_examples(none_of_one).axes) == 3, "a class without any example takes no row"
