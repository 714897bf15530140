"""The charts show the numbers, say what is withheld, and are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.longitudinal.analysis import DEFAULT, METHODS, Analysis, Settings, analyse
from trainers.longitudinal.figures import (
    MOST_PANELS,
    colour_of,
    draw_all,
    draw_distributions,
    draw_effects,
    draw_trajectories,
    labels,
)
from trainers.longitudinal.figures_of_patients import draw_checks, draw_patients
from trainers.longitudinal.patient_means import Estimate
from trainers.longitudinal.study import Study


@pytest.fixture(scope="module")
def analysis(simulated: Study) -> Analysis:
    return analyse(simulated, Settings())


def test_each_patients_days_and_phase_means_are_drawn(simulated: Study) -> None:
    figure = draw_trajectories(simulated)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels] == list(simulated.patients)
    for patient, axes in enumerate(panels):
        points = [line for line in axes.lines if line.get_linestyle() == "None"]
        means = [line for line in axes.lines if line.get_linestyle() != "None"]
        drawn = np.concatenate([line.get_ydata() for line in points])
        assert drawn == pytest.approx(simulated.severity[simulated.patient == patient])
        assert [line.get_ydata()[0] for line in means] == pytest.approx(simulated.cell_means()[patient])
        assert [line.get_color() for line in means] == [colour_of(index) for index in range(3)]


def test_a_large_study_draws_the_first_patients_and_says_so(
    study: Callable[..., Study], balanced_rows: Callable[..., list[Any]], tmp_path: Path
) -> None:
    many = study(balanced_rows(patients=23, days=5))
    shown = [axes for axes in draw_trajectories(many).axes if axes.get_visible()]
    assert len(shown) == MOST_PANELS
    captions = {entry["file"]: entry["caption"] for entry in draw_all(analyse(many, Settings()), tmp_path)}
    assert "The first 20 of 23 patients are drawn." in captions["figures/trajectories.png"]


def test_the_forest_holds_every_estimate(analysis: Analysis) -> None:
    axes = draw_effects(analysis).axes[0]
    drawn = [float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert drawn == pytest.approx([effect.found.estimate for effect in analysis.effects])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS.values()) * 2
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == [METHODS[DEFAULT]] * 2
    texts = [text.get_text() for text in axes.texts]
    first = analysis.effects[0].found
    assert f"{first.estimate:+.1f} ({first.low:+.1f} to {first.high:+.1f})".replace("-", "\N{MINUS SIGN}") in texts


def test_what_is_withheld_is_drawn_as_a_word(analysis: Analysis) -> None:
    effects = [
        effect if effect.method != "random_effects" else replace(effect, found=Estimate(withheld="it did not converge"))
        for effect in analysis.effects
    ]
    axes = draw_effects(replace(analysis, effects=effects)).axes[0]
    assert [text.get_text() for text in axes.texts].count("withheld") == 2
    assert sum(len(line.get_xdata()) == 1 for line in axes.lines) == len(effects) - 2


def test_patients_are_ordered_by_their_effect(analysis: Analysis) -> None:
    figure = draw_patients(analysis)
    for axes, treatment in zip(figure.axes, ("Antibiotics", "Cream"), strict=True):
        rows = sorted(
            (row for row in analysis.patients if row.treatment == treatment), key=lambda row: row.shrunken or (0, 0, 0)
        )
        assert [label.get_text() for label in axes.get_yticklabels()] == [row.patient for row in rows]
        intervals = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][: len(rows)]
        assert intervals == [pytest.approx(row.shrunken[1:]) for row in rows if row.shrunken]


def test_checks_and_distributions_hold_the_days(analysis: Analysis, simulated: Study) -> None:
    left, middle, right = draw_checks(analysis).axes
    assert len(left.lines[0].get_xdata()) == len(middle.lines[0].get_xdata()) == len(simulated.day)
    assert np.all(np.diff(middle.lines[0].get_ydata()) >= 0)
    lags = [row["correlation"] for row in analysis.diagnostics["autocorrelation"]["by_lag"]]
    assert right.lines[-1].get_ydata() == pytest.approx(lags)
    without = replace(analysis, models=dict.fromkeys(analysis.models, "did not converge"))
    assert draw_checks(without).axes[0].lines[0].get_ydata() == pytest.approx(simulated.residuals())
    axes = draw_distributions(simulated).axes[0]
    joined = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 3]
    assert np.array(joined) == pytest.approx(simulated.cell_means())


def test_labels_are_short_plain_and_different() -> None:
    long = "x" * 40
    names = ["$a$", "_b", "\u5c0f", "c\x00d", long, long + "x", "p01"]
    assert labels(names) == [
        r"\$a\$",
        " _b",
        "no. 3",
        "c d",
        "x" * 15 + "\u2026" + "x" * 8,
        "x" * 15 + "\u2026" + "x" * 8 + " (6)",
        "p01",
    ]


@pytest.mark.usefixtures("painted")
def test_the_same_study_gives_the_same_bytes(analysis: Analysis, tmp_path: Path) -> None:
    names = ["effects", "trajectories", "distributions", "patients", "diagnostics"]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        drawn = draw_all(analysis, tmp_path / folder)
        assert [entry["file"] for entry in drawn] == [f"figures/{name}.png" for name in names]
    for name in names:
        one, two = (tmp_path / folder / "figures" / f"{name}.png" for folder in "ab")
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as image:
            assert min(image.size) > 400
