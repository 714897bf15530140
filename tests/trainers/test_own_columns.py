"""Somebody else's dataset: columns of other names, labels that are numbers, paths in place of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_server import LoopbackHub
from huggingface_hub import HfApi, constants
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.rows import Columns
from hub_models import MobileNetForLesionClassification
from trainers.model_folder.columns import columns_for, columns_of
from trainers.model_folder.data import SPLITS, Splits, load_splits
from trainers.model_folder.folder import load_splits_of
from trainers.training.arguments import parse
from trainers.training.train import model_config

N = 120
OTHER = Columns("photo", "code", "case")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """120 small images in a folder for each of three classes."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    found = []
    for number in range(N):
        path = folder / f"kind{number // 40}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        found.append(path)
    return found


@pytest.fixture(scope="module")
def rows(files: list[Path]) -> datasets.Dataset:
    """As somebody else names them: numbers for classes, four images a case."""
    columns = {"photo": [str(path) for path in files], "code": [10 * (row // 40) for row in range(N)]}
    columns["case"] = [row // 4 for row in range(N)]
    return datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())


def parquet(folder: Path, train: datasets.Dataset) -> Path:
    (folder / "data").mkdir(parents=True)
    train.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def relabelled(rows: datasets.Dataset, labels: list[str]) -> datasets.Dataset:
    return rows.remove_columns("code").rename_column("photo", "image").add_column("label", labels)


def test_columns_of_other_names_are_read_by_their_names(rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))
    for dataset in (parquet(tmp_path / "d", rows), tmp_path / "saved"):
        splits = load_splits(str(dataset), "grouped", columns=OTHER)
        assert splits.labels == ["0", "10", "20"]
        assert splits.ids["column"] == (splits.made or {})["grouped_by"] == "case"
        groups = [set(splits.column(split, "group_id")) for split in SPLITS]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 30
        test = splits.splits["test"].with_format(None)
        assert [case // 10 for case in test["case"][:]] == test["label"][:]
        assert test[0]["image"]["bytes"] or Path(test[0]["image"]["path"]).is_file()


def test_paths_of_images_are_taken_from_the_folder(files: list[Path], tmp_path: Path) -> None:
    for path in files:
        (tmp_path / "d" / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "images" / path.parent.name / path.name).write_bytes(path.read_bytes())
    listed = {"file": [f"images/{path.parent.name}/{path.name}" for path in files]}
    listed["kind"] = [path.parent.name for path in files]
    parquet(tmp_path / "d", datasets.Dataset.from_dict(listed))
    splits = load_splits(str(tmp_path / "d"), "grouped", columns=Columns("file", "kind"))
    assert splits.labels == ["kind0", "kind1", "kind2"]
    assert sum(map(len, splits.splits.values())) == N
    (tmp_path / "d" / listed["file"][7]).unlink()
    with pytest.raises(UserError, match=r"1 of 120 images .* 'images/kind0/007.png'"):
        load_splits(str(tmp_path / "d"), "grouped", columns=Columns("file", "kind"))


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (Columns("foto", "code"), "no column 'foto': did you mean photo?"),
        (Columns("photo", "codes"), "no column 'codes': did you mean code?"),
        (Columns("photo", "code", "cases"), "no column 'cases': did you mean case?"),
        (Columns("code", "code"), "--image_column"),
        (Columns("photo"), "name it with --label_column"),
    ],
)
def test_a_wrong_column_is_named(rows: datasets.Dataset, tmp_path: Path, columns: Columns, named: str) -> None:
    folder = parquet(tmp_path / "d", rows)
    with pytest.raises(UserError) as refused:
        load_splits(str(folder), "grouped", columns=columns)
    assert named in str(refused.value)


def test_one_class_and_a_class_of_one_image_are_refused(rows: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has one class"):
        load_splits(str(parquet(tmp_path / "one", relabelled(rows, ["mole"] * N))), "grouped")
    rare = relabelled(rows, ["rare", *["mole", "spot"] * 59, "mole"])
    with pytest.raises(UserError, match=r"1 classes .* have one image each, such as 'rare'"):
        load_splits(str(parquet(tmp_path / "rare", rare)), "grouped")


@pytest.mark.parametrize("built", [True, False])
def test_own_classes_are_not_those_of_the_taxonomy_whatever_they_are_called(built: bool) -> None:
    options, _, _ = parse(["--dataset", "d", "--output_dir", "o", "--precision", "fp32"], "mobilenet_cpu")
    splits = Splits({}, ["mel", "nv"], "d", "default", ids={"duplicates": True} if built else {})
    config = model_config(options, splits, MobileNetForLesionClassification)
    assert config.label_groups == ({} if built else {"mel": "malignant", "nv": "benign"})
    assert config.label_names["mel"] == ("mel" if built else "Melanoma")
    stated = {"mel": "benign", "nv": "malignant"}
    config = model_config(options, replace(splits, label_groups=stated), MobileNetForLesionClassification)
    assert config.label_groups == stated


def test_a_later_command_takes_the_columns_of_the_training(
    rows: datasets.Dataset, tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ["--image_column", "photo", "--label_column", "code", "--group_column", "case"]
    options, _, resolved = parse(
        ["--dataset", "d", "--output_dir", "o", "--precision", "fp32", *named], "mobilenet_cpu"
    )
    assert options.columns == OTHER
    (tmp_path / "report.json").write_text(json.dumps({"provenance": {"recipe": resolved}}))
    assert columns_of(str(tmp_path)) == OTHER
    assert columns_for(str(tmp_path), Columns(label="dx")) == replace(OTHER, label="dx")
    api = HfApi(hub.endpoint, token=hub.token)
    api.create_repo("tester/model")
    api.upload_file(path_or_fileobj=tmp_path / "report.json", path_in_repo="report.json", repo_id="tester/model")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    assert columns_of("tester/model") == columns_of("tester/model@main") == OTHER
    assert columns_of("tester/none") == columns_of("no model") == Columns()
    splits = load_splits_of(str(tmp_path), str(parquet(tmp_path / "d", rows)), "grouped")
    assert splits.labels == ["0", "10", "20"]
    assert splits.ids["column"] == "case"
