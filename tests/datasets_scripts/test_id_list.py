"""A list of ids in place of images: what it holds, and the dataset that is rebuilt from it and a download."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import LoopbackHub
from huggingface_hub import HfApi

from datasets_scripts import build_ham10000, id_list
from datasets_scripts.command import UserError
from datasets_scripts.images import Scan
from datasets_scripts.rows import Row
from datasets_scripts.shards import BYTES_PER_GROUP, OF_A_LIST, _write_shard, features, may_share_label
from model_cards.publish import plan, publish
from model_cards.verify import verify_folder


@pytest.fixture(scope="module")
def built(make_archive_in, tmp_path_factory) -> tuple[Path, Path, Path]:
    """The archive, its dataset with another seed than the default, and the list of it."""
    folder = tmp_path_factory.mktemp("lists")
    archive = make_archive_in(folder / "ham10000")
    words = ["--source", str(archive), "--seed", "7", "--no-masks", "--out"]
    build_ham10000.main([*words, str(folder / "full")])
    build_ham10000.main([*words, str(folder / "list"), "--ids_only"])
    return archive, folder / "full", folder / "list"


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def test_a_list_holds_ids_splits_labels_and_hashes_and_no_image(built, capsys):
    archive, full, listed = built
    assert verify_folder(listed) == []
    loaded = datasets.load_dataset(str(listed), "grouped")
    whole = datasets.load_dataset(str(full), "grouped").select_columns(["image_id", "label", "group_id"])
    assert loaded.column_names["train"] == list(OF_A_LIST)
    for split, rows in whole.items():
        assert loaded[split].select_columns(rows.column_names)[:] == rows[:]
    card = (listed / "README.md").read_text("utf-8")
    line = "lesion build ham10000 --source DIR --seed 7 --no-masks --ids ORG/NAME --out DIR"
    assert f"```\n{line}\n```" in card
    assert str(archive.parent) not in card
    assert sum(file.stat().st_size for file in listed.rglob("*.parquet")) < sum(
        file.stat().st_size for file in full.rglob("*.parquet")
    )


def test_the_front_matter_states_columns_and_sizes(built):
    _, full, _ = built
    stated = {info["config_name"]: info for info in front_matter(full)["dataset_info"]}
    files = sorted((full / "data").iterdir())
    assert sorted(stated) == sorted(datasets.get_dataset_config_names(str(full)))
    grouped = stated["grouped"]
    assert datasets.Features._from_yaml_list(grouped["features"]) == datasets.load_dataset(str(full))["train"].features
    assert grouped["download_size"] == sum(file.stat().st_size for file in files)
    rows = {split["name"]: split["num_examples"] for split in grouped["splits"]}
    assert rows == {split: of.num_rows for split, of in datasets.load_dataset(str(full), "grouped").items()}
    first = pq.ParquetFile(files[0]).metadata.row_group(0)
    assert first.column(0).has_offset_index
    assert first.column(0).has_column_index or first.column(1).has_column_index


def test_a_row_group_ends_at_a_number_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.shards.BYTES_PER_GROUP", 1000)
    assert BYTES_PER_GROUP == 64 * 2**20
    columns = features(["nv"], with_mask=False)
    rows = [{"image": {"bytes": bytes(400), "path": "x"}, "label": 0, "image_id": str(i)} for i in range(7)]
    size = _write_shard(tmp_path / "x.parquet", columns, iter(rows))
    found = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [3, 3, 1]
    assert (size.rows, size.file) == (7, (tmp_path / "x.parquet").stat().st_size)


def test_the_data_statement_counts_what_the_rows_state(built):
    _, full, listed = built
    text = (full / "README.md").read_text("utf-8").partition("## Data statement")[2].partition("## ")[0]
    rows = list(csv.DictReader((built[0] / "HAM10000_metadata.csv").open()))
    assert f"female {sum(row['sex'] == 'female' for row in rows)}" in text
    assert f"unknown for {sum(not row['age'] for row in rows)}" in text
    assert "**Skin tone**: not recorded" in text
    assert "116 images are the source's own bytes, 0 were converted" in text
    assert "no image is stored here" in (listed / "README.md").read_text("utf-8")


def test_the_same_dataset_is_rebuilt_from_a_list_on_the_hub(built, hub: LoopbackHub, tmp_path, monkeypatch, capsys):
    archive, full, listed = built
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    publish(plan(listed, "org/list"), api)
    fetched = {"local_dir": tmp_path / "fetched"}  # in place of the cache, which other tests share
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda repo_id, **more: api.snapshot_download(repo_id, **more, **fetched)
    )
    out = tmp_path / "out"
    build_ham10000.main(["--source", str(archive), "--no-masks", "--out", str(out), "--ids", "org/list"])
    for name in ("audit.json", *(file.relative_to(full).as_posix() for file in (full / "data").iterdir())):
        assert (out / name).read_bytes() == (full / name).read_bytes(), name
    assert "warning" not in capsys.readouterr().err


def test_images_that_differ_are_missing_or_have_another_label_are_named(built, tmp_path, capsys):
    archive, _, listed = built
    copy = shutil.copytree(archive, tmp_path / "ham10000")
    table = copy / "HAM10000_metadata.csv"
    rows = list(csv.DictReader(table.open()))
    files = {file.stem: file for file in copy.rglob("*.jpg")}
    gone, changed, renamed, other = (row["image_id"] for row in rows[40:44])
    files[changed].write_bytes(files[other].read_bytes())
    old = next(row for row in rows if row["image_id"] == renamed)
    was, old["dx"] = old["dx"], "bcc" if old["dx"] != "bcc" else "nv"
    kept = [row for row in rows if row["image_id"] != gone]
    extra = {**kept[0], "image_id": "ISIC_9999999", "lesion_id": "HAM_9999999"}
    shutil.copy(files[other], files[other].with_name("ISIC_9999999.jpg"))
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([*kept, extra])
    words = ["--source", str(copy), "--no-masks", "--out", str(tmp_path / "out"), "--ids", str(listed)]
    with pytest.raises(UserError) as caught:
        build_ham10000.main(words)
    text = str(caught.value)
    assert (
        f"1 differ ({changed}); 1 are missing ({gone}); 1 have another label ({renamed}: {old['dx']}, listed {was})"
        in text
    )
    assert "1 images are not in the list" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_is_the_listed_one_by_its_file_or_by_its_pixels(built):
    found = id_list.read(str(built[2]))
    assert found is not None
    image_id, one = next(iter(found.images.items()))

    row = Row(image_id, str(one.label), bytes, "lesion")

    def scanned(file: str, pixels: str) -> Scan:
        return Scan((1, 1), True, pixels, None, 1, file)

    alone = id_list.IdList("x", "1", 0, (), {image_id: one})
    assert alone.checked([row], [scanned(one.file_sha256, "another decoder")])[0].pixels_sha256 == one.pixels_sha256
    alone.checked([row], [scanned("another copy", one.pixels_sha256)])
    with pytest.raises(UserError, match=rf"1 differ \({image_id}\)"):
        alone.checked([row], [scanned("another copy", "other pixels")])


@pytest.mark.parametrize(
    ("license", "shared"),
    [
        *[("CC-0", True), ("cc0-1.0", True), ("CC-BY", True), ("cc-by-nc-sa-3.0", True)],
        *[("cc-by-nd-4.0", False), ("unknown", False), ("other", False), ("", False)],
    ],
)
def test_a_label_is_shared_where_the_licence_allows_it(license, shared):
    assert may_share_label(license) is shared


def test_what_is_no_list_is_refused(built, tmp_path):
    _, full, listed = built
    with pytest.raises(UserError, match="holds images or no hashes"):
        id_list.read(str(full))
    with pytest.raises(UserError, match="--splits_of and --ids"):
        id_list.read(str(listed), {})
    with pytest.raises(UserError, match="neither a folder nor ORG/NAME"):
        id_list.read(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="is no list of ids"):
        id_list.read(str(tmp_path))
    copy = shutil.copytree(listed, tmp_path / "list")
    shard = next((copy / "data").iterdir())
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"data/{shard.name} differ from manifest\.json"):
        id_list.read(str(copy))
    with pytest.raises(UserError, match=r"none of the 0 images"):
        id_list.read(str(listed)).rows([])  # type: ignore[union-attr]
    assert json.loads((listed / "audit.json").read_text())["ids_only"].startswith("lesion build ham10000")
