"""Answers by group of patients: whose thresholds an image gets, what the message says, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hub_models import GroupError, LesionConfigError, MobileNetLesionConfig
from hub_models.answer_lesion import answers
from hub_models.groups_lesion import group_name, group_names, group_of_record, scope, trust_of

LABELS = ["mel", "nv"]
POOLED_SETS = {"method": "lac", "alpha": 0.1, "qhat": [0.95, 0.5], "settings": {}}
POOLED_BANDS = {
    "low": {"threshold": 0.15, "risk": 0.05, "confidence": 0.9},
    "moderate": {"threshold": 0.4, "risk": 0.2, "confidence": 0.9},
}
OWN_BANDS = {
    "low": {"threshold": None, "risk": 0.05, "confidence": 0.9},
    "moderate": {"threshold": 0.05, "risk": 0.25, "confidence": 0.9},
}
GROUPS: dict[str, Any] = {
    "column": "age_band",
    "read_from": "age",
    "edges": {"0-29": [0, 30], "30-44": [30, 45], "75+": [75, None]},
    "values": {
        "0-29": {"pooled": {"conformal": "3 lesions", "bands": "3 lesions"}},
        "30-44": {"conformal": {**POOLED_SETS, "qhat": [0.0, 0.5]}, "pooled": {"bands": "9 lesions"}},
        "75+": {"conformal": {**POOLED_SETS, "qhat": [1.0, 1.0]}, "bands": OWN_BANDS, "pooled": {}},
    },
}
TRUST: dict[str, Any] = {
    "temperature": {"value": 1.0},
    "prior": {"value": [0.2, 0.8]},
    "ood": {"detector": "energy", "threshold": 1.0},
    "conformal": POOLED_SETS,
    "bands": POOLED_BANDS,
    "policy": {"max_set_size": 2},
    "groups": GROUPS,
}


def answered(trust: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    config = SimpleNamespace(trust=trust, labels=LABELS, label_names={}, label_groups={})
    probs = torch.tensor([[0.1, 0.9]] * 4, dtype=torch.float64)
    output = SimpleNamespace(logits=probs.log(), ood_score=torch.zeros(4), get=lambda _: None)
    return answers(output, config, **options)


@pytest.mark.parametrize(
    ("value", "name"),
    [("30-44", "30-44"), (30, "30-44"), (44.9, "30-44"), ("29", "0-29"), (75, "75+"), (104, "75+"), ("75+", "75+")],
)
def test_a_group_is_given_by_name_or_by_age(value: Any, name: str) -> None:
    assert group_name(value, GROUPS) == name


@pytest.mark.parametrize("value", [None, "", "unknown", 50, -1, float("nan"), "back"])
def test_other_values_are_not_known(value: Any) -> None:
    assert group_name(value, GROUPS) is None


def test_names_are_found_in_any_case() -> None:
    assert group_name("Female", {"values": {"female": {}, "male": {}}}) == "female"


def test_each_image_has_the_thresholds_of_its_group() -> None:
    rows = answered(TRUST, group=["0-29", 31, 80, None])
    # 1 - p is 0.9 for mel and 0.1 for nv; the uncertainty is 0.1.
    assert [row["prediction_set"] for row in rows] == [["mel", "nv"], ["nv"], ["mel", "nv"], ["mel", "nv"]]
    assert [row["band"] for row in rows] == ["low", "low", "high", "low"]
    assert [row["abstain"] for row in rows] == [False, False, True, False]
    together = "Uncertainty band and prediction set are those of all groups together: "
    assert rows[0]["message"].endswith(f"{together}there are too few calibration lesions of age band 0-29.")
    assert "The prediction set is that of age band 30-44, the uncertainty band that of all groups" in rows[1]["message"]
    assert rows[2]["message"].endswith("Uncertainty band and prediction set are those of age band 75+.")
    assert rows[3]["message"].endswith(f"{together}the age band is not known.")


def test_the_promise_of_a_group_is_its_own() -> None:
    values = {**GROUPS["values"], "75+": {**GROUPS["values"]["75+"], "bands": {**OWN_BANDS}}}
    values["75+"]["bands"]["moderate"] = {"threshold": 0.11, "risk": 0.25, "confidence": 0.9}
    rows = answered({**TRUST, "groups": {**GROUPS, "values": values}}, group=80)
    assert {row["band"] for row in rows} == {"moderate"}
    assert all("at most 25 % of answers with low or moderate" in row["message"] for row in rows)


def test_without_a_group_the_answers_are_those_of_a_model_without_groups() -> None:
    plain = answered({name: value for name, value in TRUST.items() if name != "groups"})
    for group in (None, "back", [None] * 4, torch.full((4,), -1)):
        rows = answered(TRUST, group=group)
        assert [{**row, "message": ""} for row in rows] == [{**row, "message": ""} for row in plain]
        assert all("the age band is not known" in row["message"] for row in rows)
    assert scope({}, None) == ""


def test_the_index_of_a_record_is_its_group() -> None:
    assert group_of_record({"image": "a.png", "age": 80}, GROUPS) == ({"image": "a.png", "age": 80}, 2)
    assert group_of_record({"image": "a.png", "group": "0-29"}, GROUPS) == ({"image": "a.png"}, 0)
    assert group_of_record({"image": "a.png", "age_band": "75+"}, GROUPS) == ({"image": "a.png"}, 2)
    assert group_of_record({"image": "a.png", "age": 50}, GROUPS) == ({"image": "a.png", "age": 50}, -1)
    assert group_of_record("a.png", GROUPS) == ("a.png", -1)
    assert group_names(torch.tensor([2, -1, 0]), 3, TRUST) == ["75+", None, "0-29"]


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GroupError, match="2 groups were given for 4 images"):
        answered(TRUST, group=["0-29", "75+"])
    without = {name: value for name, value in TRUST.items() if name != "groups"}
    with pytest.raises(GroupError, match="group '75\\+' was given, but nothing was fitted by group"):
        answered(without, group="75+")
    assert trust_of(without, "75+") is without


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"column": 3}, "column"),
        ({"values": []}, "values"),
        ({"values": {"a": {"conformal": {**POOLED_SETS, "qhat": [0.1]}}}}, "qhat"),
        ({"values": {"a": {"bands": {"low": OWN_BANDS["low"]}}}}, "both bands"),
        ({"values": {"a": {"bands": 1}}}, "values.a.bands"),
        ({"edges": {"0-29": [0]}}, "edges"),
    ],
)
def test_a_config_with_broken_groups_is_refused(change: dict[str, Any], named: str) -> None:
    names = {"id2label": dict(enumerate(LABELS)), "label_groups": {"mel": "malignant", "nv": "benign"}}
    trust = {**TRUST, "ood": {**TRUST["ood"], "settings": {}, "buffers": {}}}
    assert MobileNetLesionConfig(**names, trust=trust).trust["groups"] == GROUPS
    with pytest.raises(LesionConfigError, match=named):
        MobileNetLesionConfig(**names, trust={**trust, "groups": {**GROUPS, **change}})
