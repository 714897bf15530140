"""Charts of trust: the right files, the same bytes each time, and what stands in them follows from the numbers."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from trainers.evaluation.decisions import decisions
from trainers.evaluation.figures import trust as trust_figures
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.predictions import NO_LABEL

pytestmark = pytest.mark.usefixtures("painted")
LABELS = ["akiec", "bcc", "df", "mel", "nv", "acne"]
TRUST = {
    "temperature": {"kind": "scalar", "value": 1.5},
    "ood": {"detector": "nearest_neighbours", "threshold": 1.8, "acceptance": 0.95},
    "conformal": {
        "method": "lac",
        "alpha": 0.1,
        "qhat": [0.8, 0.8, 0.8, 0.7, 0.7, None],
        "class_conditional": True,
        "settings": {},
        "groups": {name: "small classes: akiec, df" if name in ("akiec", "df") else name for name in LABELS},
        "n": {"small classes: akiec, df": 12, "bcc": 20, "mel": 30, "nv": 60, "acne": 5},
    },
    "bands": {
        "low": {"threshold": 0.2, "risk": 0.05, "confidence": 0.9, "n": 70},
        "moderate": {"threshold": 0.45, "risk": 0.1, "confidence": 0.9, "n": 90},
    },
    "policy": {"max_set_size": 3},
}


@pytest.fixture(scope="module")
def rows(make_predictions):
    drawn = make_predictions(150, strength=3.0)
    return replace(drawn, ood_score=np.random.default_rng(0).gamma(4, 0.25, len(drawn)))


@pytest.fixture(scope="module")
def ood_sets(rows):
    """Two sets far off, each with a colour of its own."""
    rng = np.random.default_rng(1)

    def some(n: int, name: str):
        one = rows.select(np.arange(n))
        return replace(one, split=f"ood_{name}", label=np.full(n, NO_LABEL), ood_score=rng.gamma(9, 0.3, n), columns={})

    return {"clothes": some(60, "clothes"), "left out: vasc, df": some(25, "left_out")}


@pytest.fixture(scope="module")
def report(rows, ood_sets):
    return {"trust": TRUST, "trust_evaluation": trust_section(rows, TRUST, ood_sets, replicates=20)}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_all_charts_are_drawn_and_described(report, rows, ood_sets, tmp_path):
    drawn = trust_figures.draw_trust(report, {"test": rows}, ood_sets, tmp_path)
    assert [item["file"] for item in drawn] == [
        "figures/risk_coverage_test.png",
        "figures/prediction_sets_test.png",
        "figures/gate_test.png",
    ]
    assert all(item["caption"].endswith(".") for item in drawn)
    assert "the promise is 90 %" in drawn[1]["caption"]
    assert "†" in drawn[1]["caption"]
    assert "accepts 95 % of calibration images" in drawn[2]["caption"]
    for item in drawn:
        with Image.open(tmp_path / item["file"]) as image:
            assert image.width >= 900
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_the_same_report_gives_the_same_bytes_and_leaves_no_settings(report, rows, ood_sets, tmp_path):
    settings = dict(mpl.rcParams)
    for folder in ("a", "b"):
        with mpl.rc_context({"font.size": 10 if folder == "a" else 23, "axes.facecolor": "0.5"}):
            trust_figures.draw_trust(report, {"test": rows}, ood_sets, tmp_path / folder)
    for path in sorted((tmp_path / "a" / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes(), path.name
    assert dict(mpl.rcParams) == settings


def test_where_trust_was_not_evaluated_nothing_is_drawn(rows, tmp_path):
    assert trust_figures.draw_trust({"trust": TRUST}, {"test": rows}, {}, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_gate_that_accepts_nothing_leaves_its_own_chart(report, rows, tmp_path):
    shut = {**TRUST, "ood": {**TRUST["ood"], "threshold": -1.0}}
    evaluated = trust_section(rows, shut, {}, replicates=5)
    drawn = trust_figures.draw_trust({"trust": shut, "trust_evaluation": evaluated}, {"test": rows}, {}, tmp_path)
    assert [item["file"] for item in drawn] == ["figures/gate_test.png"]


def test_the_risk_curve_ends_at_the_error_by_lesion(rows):
    figure = trust_figures.draw_risk(TRUST, rows)
    [axes] = figure.axes
    coverage, risk = axes.get_lines()[0].get_data()
    made = decisions(rows, TRUST)
    kept = made.accepted
    lesions = rows.group_id[kept]
    wrong = (made.probs.argmax(axis=1) != rows.label)[kept]
    by_lesion = [wrong[lesions == lesion].mean() for lesion in np.unique(lesions.astype(str))]
    assert coverage[-1] == pytest.approx(1)
    assert risk[-1] == pytest.approx(np.mean(by_lesion))
    assert coverage[0] >= trust_figures.LEAST_SHOWN
    assert texts(figure) == ["low: at most 5 %", "moderate: at most 10 %"]
    assert f"{kept.sum():,} images of {len(by_lesion):,} lesions" in figure.get_suptitle()


def test_a_band_of_which_nothing_is_promised_is_not_drawn(rows):
    bands = {**TRUST["bands"], "low": {**TRUST["bands"]["low"], "threshold": None}}
    assert texts(trust_figures.draw_risk({**TRUST, "bands": bands}, rows)) == ["moderate: at most 10 %"]


def test_sets_name_classes_without_a_threshold_of_their_own(report, rows):
    figure = trust_figures.draw_sets(report["trust_evaluation"]["sets"], rows)
    names = [label.get_text().split("  (")[0] for label in figure.axes[0].get_yticklabels()]
    assert names == ["all classes", "akiec †", "bcc", "df †", "mel", "nv", "acne"]
    sizes = [row["mean_set_size"]["value"] for row in report["trust_evaluation"]["sets"]["per_class"]]
    written = [f"{value:.2f}" for value in sizes if value is not None]  # df has no image
    assert texts(figure)[1:] == written


def test_the_gate_shows_every_ood_set_in_its_own_stroke(rows, ood_sets):
    figure = trust_figures.draw_gate(rows, ood_sets, TRUST["ood"])
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == [
        f"images of the split ({len(rows)})",
        "clothes (60)",
        "left out: vasc, df (25)",
        "declined beyond this line",
    ]
    many = {f"set {number}": ood_sets["clothes"] for number in range(7)}
    figure = trust_figures.draw_gate(rows, many, TRUST["ood"])
    outlines = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    strokes = [(outline.get_edgecolor(), outline.get_linestyle()) for outline in outlines]
    assert len(strokes) == len(set(strokes)) == 8


def test_a_constant_score_is_drawn_too(rows):
    figure = trust_figures.draw_gate(replace(rows, ood_score=np.ones(len(rows))), {}, {**TRUST["ood"], "threshold": 1})
    assert len(figure.axes[0].patches) > 0
