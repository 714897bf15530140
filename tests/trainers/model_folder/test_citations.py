"""What a card cites, by key."""

import re

import pytest

from hub_models.ood_lesion import DETECTORS
from trainers.model_folder.citations import (
    BY_BACKBONE_PREFIX,
    BY_DETECTOR,
    BY_SETS,
    ENTRIES,
    citations,
    trust_citations,
)


def keys(entries: list[str]) -> list[str]:
    return [re.match(r"@\w+\{([^,]+),", entry)[1] for entry in entries]


@pytest.mark.parametrize("key", ENTRIES)
def test_each_entry_is_whole(key):
    assert ENTRIES[key].count("{") == ENTRIES[key].count("}") > 1
    assert "title" in ENTRIES[key]


def test_each_detector_method_and_backbone_has_an_entry():
    assert set(BY_DETECTOR) == set(DETECTORS)
    assert {*BY_DETECTOR.values(), *BY_SETS.values(), *BY_BACKBONE_PREFIX.values()} <= set(ENTRIES)


def test_a_model_cites_its_system_data_backbone_and_trust():
    found = keys(citations(["HAM10000"], ["resnet50", "vit_base"], "isic-ensemble"))
    assert found[:2] == ["isicuncertainty", "lakshminarayanan2017ensembles"]
    assert found[-2:] == ["he2016resnet", "dosovitskiy2021vit"]
    trust = {
        "temperature": {"kind": "bias_corrected"},
        "conformal": {"method": "lac"},
        "decision": {},
        "bands": {},
        "ood": {"detector": "vim"},
    }
    assert keys(trust_citations(trust)) == [
        "guo2017calibration", "alexandari2020bcts", "sadinle2019lac", "angelopoulos2025ltt",
        "menon2021logit", "elkan2001cost", "wang2022vim",
    ]  # fmt: skip
    assert trust_citations({}) == []
