"""Sets and bands by group: which groups have their own, whether they keep their promise, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasets_scripts.command import UserError
from hub_models import MobileNetLesionConfig
from trainers.metrics.predictions import Predictions
from trainers.trust.conformal import quantile
from trainers.trust.groups import (
    Answered,
    age_bands,
    bands_of,
    check_subgroup_column,
    fit_groups,
    group_values,
    sets_of,
)
from trainers.trust.options import TrustOptions

OPTIONS = TrustOptions(subgroup_column="sex")


def half(counts: dict[str, tuple[int, int]], seed: int = 0, hard: str = "") -> Answered:
    """Lesions of one image, (benign, malignant) of each sex; those of the ``hard`` sex are far less certain."""
    rng = np.random.default_rng(seed)
    sex = np.concatenate([np.full(sum(n), name, dtype=object) for name, n in counts.items()])
    label = np.concatenate([np.repeat([0, 1], n) for n in counts.values()])
    ids = np.array([f"L{row}" for row in range(len(label))], dtype=object)
    spread = np.where(sex == hard, 1.0, 0.3)
    logit = np.where(label == 1, 2.0, -2.0) + 3 * spread * rng.normal(size=len(label))
    logits = np.stack([-logit / 2, logit / 2], axis=1)[:, None]
    rows = Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=logits,
        labels=["nv", "mel"],
        label_names={},
        label_groups={"nv": "benign", "mel": "malignant"},
        split="calibration",
        columns={"sex": sex},
    )
    probs = rows.probs()
    return Answered(rows, probs, probs.argmax(axis=1))


COUNTS = {"female": (300, 60), "male": (20, 9), "unknown": (30, 30)}


@pytest.fixture(scope="module")
def fitted():
    one, two = half(COUNTS, 1, "female"), half(COUNTS, 2, "female")
    return one, two, sets_of(two, OPTIONS), fit_groups(one, two, sets_of(two, OPTIONS), OPTIONS)


def test_a_group_of_enough_lesions_is_fitted_on_its_own(fitted):
    one, two, _, groups = fitted
    assert (groups["column"], groups["read_from"], list(groups["values"])) == ("sex", "sex", ["female", "male"])
    female = groups["values"]["female"]
    assert (female["n"], female["n_malignant"], female["pooled"]) == ([360, 360], 60, {})
    mine = two.rows.columns["sex"] == "female"
    alone = [mine & (two.rows.label == label) for label in (0, 1)]
    expected = [quantile(1 - two.probs[rows, label], 0.1) for label, rows in enumerate(alone)]
    assert female["conformal"]["qhat"] == pytest.approx(expected)
    assert female["conformal"]["n"] == {"nv": 300, "mel": 60}
    bands = bands_of(one.select(one.rows.columns["sex"] == "female"), two.select(mine), OPTIONS).as_config()
    assert female["bands"] == bands


def test_a_group_of_too_few_lesions_says_what_is_missing(fitted):
    _, _, pooled, groups = fitted
    male = groups["values"]["male"]
    assert "bands" not in male
    assert male["pooled"] == {"bands": "29 lesions in the first half, 60 are needed"}
    assert male["conformal"]["groups"] == {"nv": "nv", "mel": "mel"}  # 9 lesions are just enough at alpha 0.1
    one = half({"female": (300, 60), "male": (70, 8)})
    values = fit_groups(one, one, pooled, OPTIONS)["values"]["male"]
    assert values["pooled"] == {"bands": "8 malignant lesions in the second half, 45 are needed"}
    assert values["conformal"]["groups"] == {"nv": "nv", "mel": "all groups: mel"}
    assert values["conformal"]["qhat"][1] == pooled.qhat[1]
    assert values["conformal"]["without_own_promise"] == values["conformal"]["malignant_without_own_promise"] == ["mel"]
    few = half({"female": (300, 60), "male": (8, 8)})
    none = fit_groups(few, few, pooled, OPTIONS)["values"]["male"]
    assert none["pooled"]["conformal"] == "at most 8 lesions of a class in the second half, 9 are needed"
    assert "conformal" not in none


def test_one_threshold_for_all_classes_by_group():
    options = replace(OPTIONS, class_conditional=False)
    two = half(COUNTS, 2)
    groups = fit_groups(two, two, sets_of(two, options), options)
    mine = two.rows.columns["sex"] == "male"
    scores = 1 - two.probs[np.arange(len(mine)), two.rows.label]
    assert groups["values"]["male"]["conformal"]["qhat"] == pytest.approx([quantile(scores[mine], 0.1)] * 2)
    assert groups["values"]["male"]["conformal"]["n"] == {"all classes": 29}


def test_sets_by_group_cover_each_group_where_pooled_ones_do_not():
    """Mean coverage of 200 fits: 0.9 in each group, where one threshold for all gives the harder group less."""
    counts = {"female": (40, 40), "male": (160, 160)}
    test = half({"female": (2000, 2000), "male": (2000, 2000)}, 7, "female")
    hard = test.rows.columns["sex"] == "female"
    score = 1 - test.probs[np.arange(len(hard)), test.rows.label]
    own, together = [], []
    for seed in range(200):
        two = half(counts, 1000 + seed, "female")
        pooled = sets_of(two, OPTIONS)
        female = np.array(fit_groups(two, two, pooled, OPTIONS)["values"]["female"]["conformal"]["qhat"])
        own.append((score <= female[test.rows.label])[hard].mean())
        together.append((score <= pooled.qhat[test.rows.label])[hard].mean())
    # ceil(41 * 0.9) / 41 = 37 / 41 is the mean of the exact law.
    assert np.mean(own) == pytest.approx(37 / 41, abs=0.01)
    assert np.mean(together) < 0.8


def test_the_config_holds_what_was_fitted(fitted):
    _, two, pooled, groups = fitted
    bands = {"low": {"threshold": None}, "moderate": {"threshold": None}}
    trust = {"conformal": pooled.as_config(), "bands": bands, "groups": groups}
    names = {"id2label": dict(enumerate(two.rows.labels)), "label_groups": two.rows.label_groups}
    assert MobileNetLesionConfig(**names, trust=trust).trust["groups"] == groups


def test_values_of_a_column():
    columns = {"age": np.array([20.0, 80.0, np.nan]), "sex": np.array(["F", "male", "?"], dtype=object)}
    assert group_values("age_band", columns, 3).tolist() == ["0-29", "75+", "unknown"]
    assert group_values("sex", columns, 3).tolist() == ["female", "male", "unknown"]
    assert group_values("site", columns, 3).tolist() == ["unknown"] * 3
    assert age_bands(np.array([45.0])).tolist() == ["45-59"]


def columns(n: int = 60) -> dict[str, np.ndarray]:
    number = np.arange(n)
    return {
        "age": number.astype(float),
        "sex": np.array(["female", "male"], dtype=object)[number % 2],
        "source": np.array([f"clinic {row // 2}" for row in number], dtype=object),
        "localization": np.full(n, "unknown", dtype=object),
        "provenance": np.full(n, "real", dtype=object),
        "diagnosis": np.full(n, "nv", dtype=object),
    }


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("agee_band", "do you mean 'age_band'"),
        ("age", "do you mean 'age_band'"),
        ("sxe", "do you mean 'sex'"),
        ("skin", "has age_band, source, sex"),
        ("site", "'site' is unknown of every image"),
        ("localization", "is no column of groups"),
        ("source", "30 values in the calibration split (clinic 0, clinic 1, clinic 10, ...): give one of at most 20"),
        ("provenance", "the one value 'real'"),
        ("diagnosis", "not known when a model answers"),
    ],
)
def test_a_column_that_gives_no_groups_is_refused(column, said):
    check_subgroup_column("sex", columns(), 60, "the calibration split")
    with pytest.raises(UserError) as caught:
        check_subgroup_column(column, columns(), 60, "the calibration split")
    message = str(caught.value)
    assert f"'{column}'" in message
    assert "\n" not in message
    if column == "skin":
        assert {"age_band", "sex", "source"} <= set(message.partition("has ")[2].replace(",", "").split())
    else:
        assert said in message
