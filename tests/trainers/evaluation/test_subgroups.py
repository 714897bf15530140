"""Edges of the age bands, spellings of sex, and the unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainers.evaluation import subgroups


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "0-29"),
        (29.9, "0-29"),
        (30, "30-44"),
        (44, "30-44"),
        (45, "45-59"),
        (59, "45-59"),
        (60, "60-74"),
        (74, "60-74"),
        (75, "75+"),
        (104, "75+"),
        (np.nan, "unknown"),
        (-1, "unknown"),
        (np.inf, "unknown"),
    ],
)
def test_age_bands(age, band):
    assert subgroups.age_bands(np.array([age])).tolist() == [band]


def test_sexes_as_the_builders_read_them():
    assert subgroups.sexes(np.array(["m", "F ", "M", "x"], dtype=object)).tolist() == [
        "male",
        "female",
        "male",
        "unknown",
    ]


def test_sexes():
    assert subgroups.sexes(np.array(["Female", " male", "", None, "n/a", "unknown"], dtype=object)).tolist() == [
        "female",
        "male",
        "unknown",
        "unknown",
        "unknown",
        "unknown",
    ]


def test_missing_columns_leave_everyone_unknown():
    found = subgroups.subgroup_columns({}, np.zeros(3, dtype=int))
    assert found["age"][1].tolist() == ["unknown"] * 3
    assert found["sex"][1].tolist() == ["unknown"] * 3
    assert found["age"][0] == ("0-29", "30-44", "45-59", "60-74", "75+", "unknown")
    assert found["sex"][0] == ("female", "male", "unknown")


def test_a_finer_diagnosis_is_a_subgroup_where_the_source_gives_one() -> None:
    given = np.array(["nv", "mel", "unknown", "bcc"], dtype=object)
    malignant = np.array([0, 1, 0, 1])
    values, column = subgroups.subgroup_columns({"diagnosis": given}, malignant)["diagnosis"]
    assert values == ("bcc", "mel", "nv", "unknown")
    assert column is given
    of_each_class = np.array([0, 1, 1, 2])
    assert set(subgroups.subgroup_columns({"diagnosis": given}, of_each_class)) == {"age", "sex"}
    assert set(subgroups.subgroup_columns({"diagnosis": given[[2]]}, malignant[[2]])) == {"age", "sex"}


def test_real_and_synthetic_images_are_distinguished_where_the_source_does() -> None:
    given = np.array(["real", "synthetic", "real"], dtype=object)
    assert subgroups.subgroup_columns({"provenance": given}, np.zeros(3, dtype=int))["provenance"][0] == (
        "real",
        "synthetic",
    )


def test_skin_tone_is_a_subgroup_where_the_source_records_it() -> None:
    tone = np.array(["Fitzpatrick 5-6", "unknown", "Fitzpatrick 1-2"], dtype=object)
    values, column = subgroups.subgroup_columns({"skin_tone": tone}, np.zeros(3, dtype=int))["skin_tone"]
    assert values == ("Fitzpatrick 1-2", "Fitzpatrick 5-6", "unknown")
    assert column is tone
    assert "skin_tone" not in subgroups.subgroup_columns({"skin_tone": tone[[1]]}, np.zeros(1, dtype=int))


def test_abstention_is_shown_by_site_and_class_too(make_predictions):
    rows = make_predictions(30)
    found = subgroups.abstention_columns(rows)
    assert list(found) == ["age", "sex", "source", "class"], "no site is known"
    assert found["class"][0] == ("akiec", "bcc", "mel", "nv", "acne"), "df has no image"
    sites = np.array(["back", "unknown", "arm"], dtype=object)[np.arange(len(rows)) % 3]
    with_sites = replace(rows, columns={**rows.columns, "localization": sites})
    values, of_image = subgroups.abstention_columns(with_sites)["site"]
    assert values == ("arm", "back", "unknown")
    assert of_image.tolist() == sites.tolist()


def test_several_archives_are_a_subgroup() -> None:
    source = np.array(["ISIC 2017", "HAM10000", "HAM10000"], dtype=object)
    values, column = subgroups.subgroup_columns({"source": source}, np.zeros(3, dtype=int))["source"]
    assert values == ("HAM10000", "ISIC 2017")
    assert column.tolist() == source.tolist()
    assert "source" not in subgroups.subgroup_columns({"source": source[1:]}, np.zeros(2, dtype=int))
