"""Phantoms as rows and as a dataset folder, and the command that builds it."""

from __future__ import annotations

import io
import json
import os
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from datasets_scripts import phantom_rows as rows_module
from datasets_scripts.build_phantom import image_size, main
from datasets_scripts.command import run
from datasets_scripts.images import scan_all
from datasets_scripts.phantom_rows import PhantomRequestError, drawn_in_processes, phantom_rows
from datasets_scripts.taxonomy import TASKS


def test_rows_spread_over_classes_and_lesions() -> None:
    rows = phantom_rows("dermx", 480, 3)
    count = Counter(row.label for row in rows)
    assert len(rows) == sum(count.values()) == 480
    assert set(count) == set(TASKS["dermx"])
    assert min(count.values()) >= 40
    assert max(count.values()) < 2.5 * min(count.values())
    assert len({row.image_id for row in rows}) == 480
    lesions = defaultdict(list)
    for row in rows:
        lesions[row.lesion_id].append(row)
    assert 1.6 < 480 / len(lesions) < 2.4
    for label in TASKS["dermx"]:
        assert len({row.lesion_id for row in rows if row.label == label}) >= 20, "enough for twenty folds"
    for members in lesions.values():
        assert len({(m.label, m.age, m.sex, m.localization) for m in members}) == 1
    assert [row.label for row in rows[:40]] != sorted(row.label for row in rows[:40])


def test_rows_are_the_same_drawn_in_one_process_and_in_two() -> None:
    drawn, drawers = [], set()
    for processes in (1, 2):
        rows_module._files.cache_clear()
        rows = phantom_rows("isic2017", 24, 5, (48, 36))
        with drawn_in_processes(len(rows), processes):
            scans = scan_all(rows)
            if rows_module._pool is not None:
                drawers |= {rows_module._pool.submit(os.getpid).result()}
            files = [(row.read(), row.read_mask()) for row in rows]
        assert rows_module._pool is None
        drawn.append(([scan.pixels_sha256 for scan in scans], files))
    assert drawn[0] == drawn[1]
    assert len(drawers - {os.getpid()}) == 1


def test_rows_tell_of_invented_patients() -> None:
    rows = phantom_rows("ham10000", 420, 1)
    assert {row.sex for row in rows} == {"female", "male", "unknown"}
    assert any(row.age is None for row in rows)
    assert any(row.localization == "unknown" for row in rows)
    ages = {label: np.mean([r.age for r in rows if r.label == label and r.age is not None]) for label in ("nv", "bcc")}
    assert ages["nv"] < ages["bcc"]
    assert {(row.source, row.license, row.dx_type) for row in rows} == {("phantom", "CC0-1.0", "drawn")}
    assert "procedurally drawn, not a photograph" in rows[0].attribution


def test_rows_are_deterministic_and_seeded() -> None:
    first, again, other = (phantom_rows("dermx", 64, seed, (40, 30)) for seed in (0, 0, 1))
    assert [(r.image_id, r.label, r.lesion_id, r.age) for r in first] == [
        (r.image_id, r.label, r.lesion_id, r.age) for r in again
    ]
    assert [r.read() for r in first[:4]] == [r.read() for r in again[:4]]
    assert not {r.lesion_id for r in first} & {r.lesion_id for r in other}
    with Image.open(io.BytesIO(first[0].read())) as image, Image.open(io.BytesIO(first[0].read_mask())) as mask:
        assert image.size == mask.size == (40, 30)
        assert "drawn" in image.info["Description"]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_is_drawn(task: str) -> None:
    rows = phantom_rows(task, 2 * len(TASKS[task]), 0, (24, 18))
    assert {row.label for row in rows} == set(TASKS[task])
    for row in {row.label: row for row in rows}.values():
        with Image.open(io.BytesIO(row.read())) as image:
            assert image.size == (24, 18)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("derm", 100, 0), "unknown task 'derm'; known tasks: "),
        (("dermx", 3, 0), "3 images for 8 classes"),
        (("dermx", 80, -1), "seed=-1"),
        (("dermx", 80, 0, (8, 8)), "size=8x8"),
    ],
)
def test_impossible_requests_are_named(arguments, message: str) -> None:
    with pytest.raises(PhantomRequestError, match=message):
        phantom_rows(*arguments)


def test_command_builds_a_dataset_that_loads(tmp_path) -> None:
    out = tmp_path / "phantoms"
    main(["--task", "isic_binary", "--images", "80", "--size", "32x24", "--seed", "5", "--out", str(out)])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "license: cc0-1.0" in card
    assert "Procedurally drawn, not a photograph" in card
    assert "invented" in card
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert audit["rows"] == 80
    assert audit["image_sizes"] == {"32x24": 80}
    grouped = load_dataset(str(out), "grouped", cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) > 0 for split, part in grouped.items()} == dict.fromkeys(
        ("train", "validation", "calibration", "test"), True
    )
    assert sum(len(part) for part in grouped.values()) == 80
    one = grouped["train"][0]
    assert one["image"].size == one["mask"].size == (32, 24)
    assert one["source"] == "phantom"
    published = load_dataset(str(out), "published", cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in published.items()} == {"train": 64, "validation": 8, "test": 8}


def test_same_command_same_bytes(tmp_path) -> None:
    arguments = ["--task", "isic_binary", "--images", "64", "--size", "24x18"]
    manifests = []
    for name in ("a", "b"):
        main([*arguments, "--out", str(tmp_path / name)])
        manifests.append((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))
    assert manifests[0] == manifests[1]


def test_command_refuses_in_one_line(tmp_path, capsys) -> None:
    for arguments, message in (
        (["--images", "40", "--out", str(tmp_path / "new")], "--images 40 gives class"),
        (["--out", str(tmp_path)], "is not empty: choose another --out"),
    ):
        (tmp_path / "thing").write_text("x")
        with pytest.raises(SystemExit) as stopped:
            run(lambda given=arguments: main(given))
        assert stopped.value.code == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ")
        assert message in line
        assert "\n" not in line
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["--size", "huge", "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    assert "'huge' is no size; give WIDTHxHEIGHT" in capsys.readouterr().err
    assert image_size("64x48") == (64, 48)
