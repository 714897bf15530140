from __future__ import annotations

import hashlib
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import processes
import pytest
import yaml
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.curate import _configs, curate
from datasets_scripts.dataset_card import Description
from datasets_scripts.images import ImageError
from datasets_scripts.rows import Row
from datasets_scripts.sources import ham10000
from datasets_scripts.taxonomy import TASKS, UnknownLabelError

CONFIGS = ("grouped", "published", "release", "fold0", "fold1", "fold2", "fold3", "fold4")
ABOUT = Description("tiny", "Tiny", TASKS["ham10000"], "cc-by-nc-4.0", "@misc{tiny}")


def build(rows: list[Row], out: Path, **changes) -> dict:
    published = [("train", "validation", "test", None)[i % 4] for i in range(len(rows))]
    about = {key: changes.pop(key) for key in [*changes] if hasattr(ABOUT, key)}
    return curate(rows, out, replace(ABOUT, **about), **{"published": published, "seed": 1, **changes})


@pytest.fixture
def rows(archive) -> list[Row]:
    return ham10000.read(str(archive)).rows


@pytest.fixture(scope="module")
def built(make_archive_in, tmp_path_factory) -> tuple[list[Row], Path]:
    """Rows and the folder made of them, for tests that only read it."""
    folder = tmp_path_factory.mktemp("built")
    rows = ham10000.read(str(make_archive_in(folder / "ham10000"))).rows
    build(rows, folder / "out")
    return rows, folder / "out"


def test_the_folder_loads_in_every_config_with_each_image_once(built):
    rows, out = built
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "audit.json", "data", "manifest.json"]
    assert datasets.get_dataset_config_names(str(out)) == list(CONFIGS)
    expected = sorted(row.image_id for row in rows)
    group_of: dict[str, str] = {}
    tests: list[str] = []
    for config in CONFIGS:
        loaded = datasets.load_dataset(str(out), config)
        ids = {split: loaded[split]["image_id"][:] for split in loaded}
        if config == "published":
            assert {split: len(of) for split, of in ids.items()} == {"train": 29, "validation": 29, "test": 29}
            continue
        assert sorted(loaded) == ["calibration", "test", "train", "validation"]
        assert sorted(i for of in ids.values() for i in of) == expected
        groups = {split: set(loaded[split]["group_id"]) for split in loaded}
        n_groups = json.loads((out / "audit.json").read_text())["duplicates"]["groups"]
        assert sum(len(of) for of in groups.values()) == len(set().union(*groups.values())) == n_groups
        for split in loaded:
            group_of.update(zip(ids[split], loaded[split]["group_id"], strict=True))
        tests += ids["test"] if config.startswith("fold") else []
    assert sorted(tests) == expected
    assert len(group_of) == len(rows)
    stored = sum(datasets.Dataset.from_parquet(str(p)).num_rows for p in (out / "data").iterdir())
    assert stored == len(rows)


def test_features_and_values(built):
    rows, out = built
    loaded = datasets.load_dataset(str(out))  # the default config is the grouped one
    features = loaded["train"].features
    assert list(features) == [
        "image",
        "label",
        "image_id",
        "lesion_id",
        "group_id",
        "age",
        "sex",
        "localization",
        "dx_type",
        "source",
        "license",
        "attribution",
        "mask",
    ]
    assert features["label"] == datasets.ClassLabel(names=list(TASKS["ham10000"]))
    assert features["age"] == datasets.Value("float32")
    assert isinstance(features["image"], datasets.Image)
    raw = datasets.concatenate_datasets(list(loaded.values())).cast_column("image", datasets.Image(decode=False))
    by_id = {row.image_id: row for row in rows}
    ages = []
    for record in raw:
        row = by_id[record["image_id"]]
        assert record["image"] == {"bytes": row.read(), "path": f"{row.image_id}.jpg"}  # untouched
        assert features["label"].int2str(record["label"]) == row.label
        assert (record["age"], record["sex"], record["lesion_id"]) == (row.age, row.sex, row.lesion_id)
        assert (record["mask"] is None) == (row.read_mask is None)
        ages.append(record["age"])
    assert ages.count(None) == 2
    first_mask = next(record["mask"] for record in raw if record["mask"] is not None)
    assert first_mask.size == (40, 30)


def test_release_is_left_out_where_a_twentieth_has_no_image(rows):
    folds = np.arange(len(rows)) % 20
    assert "release" in _configs(rows, folds, None)
    folds[folds == 15] = 0
    configs = _configs(rows, folds, None)
    assert list(configs) == ["grouped", "fold0", "fold1", "fold2", "fold3", "fold4"]
    assert not [split for splits in configs.values() for split, members in splits.items() if not members]


@pytest.mark.parametrize("config", CONFIGS)
def test_streaming(built, config):
    _, out = built
    stream = datasets.load_dataset(str(out), config, split="test", streaming=True)
    whole = datasets.load_dataset(str(out), config, split="test")
    streamed = list(stream)
    assert [record["image_id"] for record in streamed] == whole["image_id"][:]
    assert streamed[0]["image"].size == (40, 30)
    assert stream.features["label"].names == list(TASKS["ham10000"])


def test_audit_and_card(rows, tmp_path):
    published: list[str | None] = ["train"] * len(rows)
    published[2] = "test"  # the second view of the first lesion
    published[4] = "validation"
    audit = build(rows, tmp_path / "out", published=published, warnings=["Seven rows were dropped."], notes=["A note."])
    assert audit == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["rows"] == len(rows) == 116
    assert audit["per_class"] == {"akiec": 12, "bcc": 12, "bkl": 14, "df": 12, "mel": 14, "nv": 40, "vasc": 12}
    assert audit["image_sizes"] == {"40x30": 116}
    assert (audit["missing"]["age"], audit["missing"]["mask"]) == (2, 111)
    assert audit["leak"]["published"]["test"] == {
        "n": 1,
        "leaking": 1,
        "share": 1.0,
        "per_class": {"akiec": {"n": 1, "leaking": 1, "share": 1.0}},
    }
    assert audit["leak"]["published"]["validation"]["leaking"] == 1  # image 5, its second view, trains
    assert audit["leak"]["grouped"]["test"]["leaking"] == 0
    assert "Config published, split test has no image of bcc, bkl, df, mel, nv, vasc." in audit["warnings"]
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-nc-4.0"
    assert [config["config_name"] for config in head["configs"]] == list(CONFIGS)
    assert [config.get("default", False) for config in head["configs"]] == [True] + [False] * (len(CONFIGS) - 1)
    for expected in (
        "Not a medical device",
        "A note.",
        "Seven rows were dropped.",
        "| published | test | 1 | 1 | 100.0 % | 100.0 % | - |",
        "| HAM10000 | 116 | cc-by-nc-4.0 | Tschandl",
        "@misc{tiny}",
        "| mel | Melanoma | malignant | 14 |",
    ):
        assert expected in card


def test_the_manifest_holds_every_other_file(built):
    _, out = built
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = files[name].read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_splits(rows, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build(rows, tmp_path / name, seed=seed)
    manifests = {name: (tmp_path / name / "manifest.json").read_bytes() for name in "abc"}
    assert manifests["a"] == manifests["b"] != manifests["c"]


def test_the_order_of_the_rows_does_not_change_the_grouped_splits(rows, tmp_path):
    build(rows, tmp_path / "a", published=None)
    build(rows[::-1], tmp_path / "b", published=None)
    for split in ("train", "validation", "calibration", "test"):
        ids = [sorted(datasets.load_dataset(str(tmp_path / n), "grouped", split=split)["image_id"]) for n in "ab"]
        assert ids[0] == ids[1]


def test_duplicates_across_lesions_end_in_one_group(rows, tmp_path, drawn):
    copy = drawn.draw(int(rows[60].image_id.removeprefix("ISIC_")))
    again = drawn.jpeg(copy, quality=60)
    exact = rows[20].read()
    rows += [
        Row("copy-near", rows[60].label, lambda: again, "copy-1"),
        Row("copy-exact", "mel", lambda: exact, "copy-2"),
    ]
    audit = build(rows, tmp_path / "out")
    found = audit["duplicates"]
    assert found["exact"] == [[rows[20].image_id, "copy-exact"]]
    assert found["near_pairs"] == 1
    pairs = [[rows[20].image_id, "copy-exact"], [rows[60].image_id, "copy-near"]]
    assert found["across_lesions"] == sorted(pairs)
    assert found["contradicting_labels"] == [[rows[20].image_id, "copy-exact"]]
    assert found["lesions"] - found["groups"] == 2
    loaded = datasets.concatenate_datasets(list(datasets.load_dataset(str(tmp_path / "out")).values()))
    groups = dict(zip(loaded["image_id"], loaded["group_id"], strict=True))
    assert groups["copy-near"] == groups[rows[60].image_id]
    assert groups["copy-exact"] == groups[rows[20].image_id]


def test_odd_images_are_stored_upright_as_rgb(rows, tmp_path, drawn):
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = {
        "cmyk": drawn.jpeg(drawn.draw(1).convert("CMYK")),
        "rgba": drawn.png(drawn.draw(2).convert("RGBA")),
        "palette": drawn.png(drawn.draw(3).convert("P")),
        "16-bit": drawn.png(Image.fromarray(np.asarray(drawn.draw(4).convert("L")).astype(np.uint16) * 257)),
        "turned": drawn.jpeg(drawn.draw(5), exif=turned.tobytes()),
    }
    rows += [Row(image_id, "nv", lambda data=data: data, image_id) for image_id, data in odd.items()]
    build(rows, tmp_path / "out", published=None)
    loaded = datasets.concatenate_datasets(list(datasets.load_dataset(str(tmp_path / "out")).values()))
    images = {i: image for i, image in zip(loaded["image_id"], loaded["image"], strict=True) if i in odd}
    assert {i: (image.format, image.mode) for i, image in images.items()} == dict.fromkeys(odd, ("PNG", "RGB"))
    assert images["turned"].size == (30, 40)
    grey = np.asarray(drawn.draw(4).convert("L"))
    assert (np.asarray(images["16-bit"])[..., 0] == grey).all()


def test_rows_that_no_dataset_can_be_made_of(rows, tmp_path):
    for bad, error, message in (
        ([], UserError, "0 images"),
        ([*rows, rows[0]], UserError, f"1 image ids occur more than once, the first is '{rows[0].image_id}'"),
        ([*rows, Row("x", "acne", bytes, "x")], UserError, "label 'acne' is not among akiec"),
        ([*rows, Row("x", "nv", bytes, "x")], ImageError, "image x: the file is empty"),
    ):
        with pytest.raises(error, match=message):
            build(bad, tmp_path / "out", published=None)
    with pytest.raises(UnknownLabelError, match="'hives'"):
        build(rows, tmp_path / "out", labels=(*TASKS["ham10000"], "hives"))
    assert list(tmp_path.glob("out*")) == []


def test_an_output_folder_in_use_is_refused_and_an_empty_one_taken(rows, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        build(rows, out)
    assert (out / "note.txt").read_text() == "mine"
    (out / "note.txt").unlink()
    build(rows, out)
    assert (out / "manifest.json").is_file()
    with pytest.raises(UserError, match="is a file"):
        build(rows, out / "manifest.json")


def test_a_fault_while_writing_leaves_nothing(rows, tmp_path, monkeypatch):
    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets_scripts.shards.manifest", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build(rows, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from datasets_scripts import build_ham10000, shards
write = shards.write_shards
def killed(*args, **more):
    write(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
shards.write_shards = killed
build_ham10000.main(["--source", sys.argv[1], "--out", sys.argv[2]])
"""


def test_a_killed_build_leaves_no_half_written_folder_and_the_next_one_cleans_up(archive, rows, tmp_path, repo_root):
    out = tmp_path / "out"
    run = processes.run([sys.executable, "-c", KILLED, str(archive), str(out)], cwd=repo_root)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list((tmp_path / "out.partial" / "data").iterdir())) > 10
    (tmp_path / "out.partial" / "data" / "stale.parquet").write_bytes(b"stale")
    build(rows, out)
    assert not (tmp_path / "out.partial").exists()
    assert not (out / "data" / "stale.parquet").exists()
    assert datasets.load_dataset(str(out), "grouped", split="train").num_rows > 0
