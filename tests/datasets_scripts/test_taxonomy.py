from __future__ import annotations

import pytest

from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import (
    CLASSES,
    GROUPS,
    TASKS,
    UnknownLabelError,
    canonical,
    class_order,
    classes_named,
    long_names,
    malignancy_groups,
)


def test_tasks_have_the_agreed_classes_in_the_agreed_order():
    assert TASKS["ham10000"] == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert TASKS["dermx"] == (*TASKS["ham10000"], "acne")
    assert len(TASKS["lesions12"]) == len(set(TASKS["lesions12"])) == 12
    assert TASKS["isic_binary"] == ("benign", "malignant")
    assert (TASKS["isic2017"], TASKS["isic2017_ham"]) == (("mel", "nv", "sk"), ("mel", "nv", "bkl"))
    assert {label for task in TASKS.values() for label in task} <= set(CLASSES)


def test_malignancy_groups():
    by_group = {group: {c.name for c in CLASSES.values() if c.group == group} for group in GROUPS}
    assert by_group["malignant"] == {"bcc", "mel", "met", "scc", "malignant", "other_malignant"}
    assert by_group["premalignant"] == {"akiec", "ak"}
    assert sum(map(len, by_group.values())) == len(CLASSES)
    assert malignancy_groups(["nv", "akiec", "mel"]) == {"nv": "benign", "akiec": "premalignant", "mel": "malignant"}


@pytest.mark.parametrize(
    ("written", "short"),
    [
        ("melanocytic_Nevi", "nv"),
        ("benign_keratosis-like_lesions", "bkl"),
        ("actinic_keratoses", "akiec"),
        ("basal_cell_carcinoma", "bcc"),
        ("vascular_lesions", "vasc"),
        ("melanoma", "mel"),
        ("dermatofibroma", "df"),
        ("  Melanocytic nevi ", "nv"),
        ("BKL", "bkl"),
        ("Actinic keratosis / intraepithelial carcinoma", "akiec"),
    ],
)
def test_ham10000_spellings_of_mirrors(written, short):
    assert canonical("ham10000", written) == short


def test_one_spelling_may_mean_another_class_in_another_source():
    assert canonical("lesions12", "actinic keratosis") == "ak"
    assert canonical("lesions12", "Squamous Cell Carcinoma") == "scc"
    assert canonical("dermnet", "Acne and Rosacea Photos") == "acne"
    assert canonical("isic_binary", "Malignant") == "malignant"
    assert canonical("isic2017", "seborrheic_keratosis") == "sk"
    assert canonical("isic2017", "nevus") == "nv"


def test_each_class_is_known_by_its_short_and_long_name_in_each_task():
    for task in ("ham10000", "lesions12", "isic_binary", "isic2017"):
        for label in TASKS[task]:
            assert canonical(task, label) == label
            assert canonical(task, CLASSES[label].long_name) == label


def test_unknown_names_say_what_was_received_and_what_is_known():
    with pytest.raises(UnknownLabelError, match=r"'psoriasis'.*akiec, bcc") as caught:
        canonical("ham10000", "psoriasis")
    assert isinstance(caught.value, UserError)
    with pytest.raises(UnknownLabelError, match=r"'fitzpatrick17k'.*dermnet"):
        canonical("fitzpatrick17k", "nv")
    with pytest.raises(UnknownLabelError, match="'xx'"):
        long_names(["nv", "xx"])


def test_long_names_keep_the_order():
    assert list(long_names(("vasc", "nv"))) == ["vasc", "nv"]
    assert long_names(("nv",)) == {"nv": "Melanocytic nevus"}


def test_a_name_means_the_classes_that_any_source_calls_so() -> None:
    assert classes_named("Nevus") == {"nv"}
    assert classes_named("actinic keratosis") == {"akiec", "ak"}
    assert classes_named("melanocytic_Nevi") == {"nv"}
    assert classes_named("psoriasis") == set()


@pytest.mark.parametrize(
    ("labels", "others", "places"),
    [
        (["nv", "mel", "df"], ["df", "nv", "mel"], [1, 2, 0]),
        (["a", "b"], ["a", "b"], [0, 1]),
        (("a", "b"), ["b", "a"], [1, 0]),
        ([], [], []),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["a"], None),
        (["a"], ["a", "b"], None),
        (["a", "a"], ["a", "b"], None),
        (["a", "b"], ["a", "a"], None),
        (["a", "a"], ["a", "a"], None),
    ],
)
def test_the_order_of_classes_is_found_by_name(labels, others, places):
    assert class_order(labels, others) == places
