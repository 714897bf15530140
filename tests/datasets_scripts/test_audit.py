from __future__ import annotations

import pytest

from datasets_scripts.audit import (
    duplicate_report,
    leak_audit,
    leak_by_config,
    leak_table,
    missing_report,
    percent,
    synthetic_report,
)
from datasets_scripts.command import UserError
from datasets_scripts.duplicates import Duplicates
from datasets_scripts.rows import Row


def test_leak_audit_by_hand():
    # test images a, a, b, c, d, d; a and d are in train: 4 of 6, of mel 2 of 3, of nv 2 of 2, of df none.
    found = leak_audit(["a", "d", "e"], ["a", "a", "b", "c", "d", "d"], ["mel", "mel", "mel", "df", "nv", "nv"])
    assert found == {
        "n": 6,
        "leaking": 4,
        "share": pytest.approx(4 / 6),
        "per_class": {
            "df": {"n": 1, "leaking": 0, "share": 0.0},
            "mel": {"n": 3, "leaking": 2, "share": pytest.approx(2 / 3)},
            "nv": {"n": 2, "leaking": 2, "share": 1.0},
        },
    }


def test_leak_audit_of_nothing_has_no_share():
    assert leak_audit(["a"], [], []) == {"n": 0, "leaking": 0, "share": None, "per_class": {}}
    assert percent(None) == "-"
    with pytest.raises(ValueError, match="2 groups for 1 labels"):
        leak_audit([], ["a", "b"], ["nv"])


def test_a_leaking_grouped_config_is_an_error_and_a_published_one_is_not():
    groups, labels = ["a", "a", "b"], ["nv", "nv", "mel"]
    leaking = {"train": [0], "test": [1, 2]}
    assert leak_by_config({"published": leaking}, groups, labels)["published"]["test"]["leaking"] == 1
    for config in ("grouped", "fold3"):
        with pytest.raises(UserError, match=f"'{config}': 1 of 2 images of test"):
            leak_by_config({config: leaking}, groups, labels)


def test_leak_table_has_shares_by_class():
    leak = leak_by_config({"published": {"train": [0], "test": [1, 2]}}, ["a", "a", "b"], ["nv", "nv", "mel"])
    assert leak_table(leak, ["nv", "mel", "df"]) == [
        ["config", "split", "images", "leaking", "share", "nv", "mel", "df"],
        ["published", "test", "2", "1", "50.0 %", "100.0 %", "0.0 %", "-"],
    ]


def test_reports_count_what_is_missing_and_what_is_double():
    rows = [
        Row("i0", "nv", bytes, "l0", age=0.0, sex="female", localization="back", read_mask=bytes),
        Row("i1", "nv", bytes, "l0"),
        Row("i2", "mel", bytes, "l2", age=50.0, sex="male"),
    ]
    assert missing_report(rows) == {"age": 1, "age_zero": 1, "sex": 1, "localization": 2, "mask": 2}
    report = duplicate_report(rows, Duplicates(exact=[(0, 1)], near=[(1, 2)]), ["l0", "l0", "l0"])
    assert (report["exact_pairs"], report["near_pairs"]) == (1, 1)
    assert report["exact"] == [["i0", "i1"]]
    assert report["across_lesions"] == report["contradicting_labels"] == [["i1", "i2"]]
    assert (report["lesions"], report["groups"]) == (2, 1)


def test_synthetic_images_are_counted_by_where_they_stand():
    kinds = ["real", "synthetic", "synthetic", "real", "synthetic", "synthetic"]
    labels = ["nv", "nv", "mel", "mel", "nv", "mel"]
    rows = [
        Row(str(i), label, bytes, str(i), provenance=kind)
        for i, (kind, label) in enumerate(zip(kinds, labels, strict=True))
    ]
    configs = {"grouped": {"train": [0, 1], "test": [3]}, "published": {"train": [0, 1, 2], "test": [3, 4]}}
    assert synthetic_report(rows, configs) == {
        "synthetic": {
            "images": 4,
            "per_class": {"mel": 2, "nv": 2},
            "configs": {
                "grouped": {"train": 1, "elsewhere": 0, "left_out": 3},
                "published": {"train": 2, "elsewhere": 1, "left_out": 1},
            },
        }
    }
    assert synthetic_report([Row("a", "nv", bytes, "a")], configs) == {}
