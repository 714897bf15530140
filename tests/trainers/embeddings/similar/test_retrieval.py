"""Precision at k: worked out by hand, beside a draw without looking, and as tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from trainers.embeddings.retrieval import (
    draw_retrieval,
    lesion_shares,
    precision_at_k,
    retrieval_csv,
    retrieval_markdown,
)

NAMES = ["mel", "nv", "df"]


def test_precision_by_hand() -> None:
    # Two melanomas find 2 and 1 of 2, three nevi 2, 2 and 0; no query is a dermatofibroma.
    found = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [2, 0]])
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array(["a", "b", "c", "d", "e"])
    result = precision_at_k(found, labels, groups, NAMES, np.array([0.25, 0.7, 0.05]), replicates=200)
    assert result["k"] == 2
    assert result["per_class"]["mel"]["value"] == 0.75
    assert result["per_class"]["nv"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert result["per_class"]["df"]["value"] is None
    assert (result["per_class"]["nv"]["n"], result["per_class"]["nv"]["lesions"]) == (3, 3)
    assert result["per_class"]["nv"]["chance"] == 0.7
    assert result["macro"]["value"] == pytest.approx((0.75 + 2 / 3) / 2, abs=1e-6)
    assert result["micro"]["value"] == pytest.approx(0.7, abs=1e-6)
    # By chance: a class's share, or the mean over the requested classes, or over the queries.
    assert result["macro"]["chance"] == pytest.approx((0.25 + 0.7) / 2)
    assert result["micro"]["chance"] == pytest.approx((2 * 0.25 + 3 * 0.7) / 5)
    assert result["found"]["nv"] == {
        "mel": pytest.approx(1 / 6, abs=1e-6),
        "nv": pytest.approx(4 / 6, abs=1e-6),
        "df": pytest.approx(1 / 6, abs=1e-6),
    }
    assert result["macro"]["low"] < result["macro"]["value"] < result["macro"]["high"]


def test_a_lesion_of_many_images_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 40), 10)
    found, labels = (1 - right)[:, None], np.zeros(400, dtype=int)
    shares = np.array([0.5, 0.5, 0.0])
    widths = []
    for groups in (np.arange(400), np.repeat(np.arange(40), 10)):
        number = precision_at_k(found, labels, groups, NAMES, shares)["per_class"]["mel"]
        widths.append(number["high"] - number["low"])
    assert widths[1] == pytest.approx(np.sqrt(10) * widths[0], rel=0.2)


def test_a_draw_without_looking_has_the_precision_of_chance() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), 2)
    labels = np.repeat(rng.choice(3, 300, p=[0.2, 0.7, 0.1]), 2)
    shares = lesion_shares(labels, groups, 3)
    np.testing.assert_allclose(shares, np.bincount(labels, minlength=3) / 600)
    queries = rng.integers(0, 3, 4000)
    result = precision_at_k(rng.choice(3, (4000, 5), p=shares), queries, np.arange(4000), NAMES, shares)
    for number in (*result["per_class"].values(), result["macro"], result["micro"]):
        assert number["low"] - 0.01 <= number["chance"] <= number["high"] + 0.01


def test_a_lesion_counts_once_in_the_shares() -> None:
    shares = lesion_shares(np.array([0, 0, 0, 1]), np.array(["a", "a", "a", "b"]), 3)
    assert shares.tolist() == [0.5, 0.5, 0]


def test_tables_and_chart_say_the_numbers() -> None:
    found, labels = np.array([[0], [1], [1], [0]]), np.array([0, 0, 1, 1])
    result = precision_at_k(found, labels, np.arange(4), NAMES, np.array([0.3, 0.6, 0.1]), replicates=50)
    rows = list(csv.DictReader(io.StringIO(retrieval_csv([result]))))
    assert [row["class"] for row in rows] == ["mel", "nv", "df", "(macro)", "(micro)"]
    assert rows[0]["precision"] == "0.500000"
    assert (rows[2]["precision"], rows[2]["chance"]) == ("", "")
    assert (rows[3]["queries"], rows[3]["lesions"]) == ("4", "4")
    report = {"title": "T", "precision_at_k": [result], "notes": ["a note"], "origin": {"command": "a command"}}
    text = retrieval_markdown(report)
    assert f"| mel | 2 (2) | 0.300 | 0.500 ({result['per_class']['mel']['low']:.3f} to" in text
    assert "| df | 0 (0) | n/a | n/a |" in text
    assert "| nv | 0.50 | 0.50 | 0.00 |" in text
    figure = draw_retrieval(result, "T")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "mel (n = 2)",
        "nv (n = 2)",
        "mean over classes",
    ]
