"""A user's own images: class folders or Parquet, no ids, no splits, other classes than any recipe's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from card_text import folder_card
from datasets.table import embed_table_storage

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from hub_models import MobileNetForLesionClassification
from model_cards.verify import verify_folder
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import SPLITS, Splits, load_splits
from trainers.model_folder.finish import print_finished
from trainers.model_folder.fit_trust import fit_trust
from trainers.training.arguments import parse
from trainers.training.train import build_model, classifier, run, settle_identity
from trainers.trust.options import TrustOptions

DRAWN_AS = {"keratosis": "bkl", "mole": "nv", "suspicious": "mel"}
TINY = {
    "backbone": "test_efficientnet",
    "backbone_weights": "none",
    **{"image_size": 32, "train_image_size": 0, "num_train_epochs": 1},
    **{"bootstrap_replicates": 20, "dataloader_num_workers": 0},
    "disable_tqdm": "true",
    "precision": "fp32",
}
IDENTITY = ("Derm-X", "derm-x", "dermx", "cc-by-nc-4.0")


def without_code_files(card: str) -> str:
    """A card without the rows that name code files and their purposes: these are the same for every model."""
    return re.sub(r"^\|.*\w+\.py.*$", "", card, flags=re.MULTILINE)


def words(**options: Any) -> list[str]:
    """Options of a command line, among them those of a tiny training."""
    return [word for name, value in {**TINY, **options}.items() for word in (f"--{name}", str(value))]


def train(dataset: Path, out: Path, recipe: str, **more: str) -> tuple[dict[str, Any], str]:
    """Report and card of a model trained for an epoch."""
    given = words(recipe=recipe, dataset=dataset, output_dir=out, **more)
    run(given, recipe, classifier(MobileNetForLesionClassification))
    assert verify_folder(out) == []
    return json.loads((out / "report.json").read_text()), folder_card(out)


def head(card: str) -> dict[str, Any]:
    """The front matter."""
    return dict(yaml.safe_load(card.split("---")[1]))


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images in a folder for each of three classes."""
    folder = tmp_path_factory.mktemp("own") / "flat"
    for label, (name, look) in enumerate(DRAWN_AS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            draw(look, 100 * label + number, size=(48, 36)).image.save(folder / name / f"IMG_{number:03d}.jpg")
    return folder


@pytest.fixture(scope="module")
def rows(flat: Path) -> datasets.Dataset:
    """The same images as a table."""
    table = datasets.load_dataset("imagefolder", data_dir=str(flat), split="train")
    return table.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)


@pytest.fixture(scope="module")
def trained(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "my_moles"
    train(flat, out, "mobilenet_cpu")
    return out


def parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    (folder / "data").mkdir(parents=True)
    for name, table in splits.items():
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def test_splits_are_made_written_down_and_reported(trained: Path, flat: Path) -> None:
    report, card = report_of(trained), folder_card(trained)
    dataset = report["provenance"]["dataset"]
    assert dataset["config_name"] == report["provenance"]["recipe"]["config_name"] == "default"
    made = dataset["made_splits"]
    assert (made["of"], made["splits"], made["seed"]) == ("train", ["validation", "calibration", "test"], 42)
    sizes = {split: section["n"] for split, section in dataset["splits"].items()}
    assert sum(sizes.values()) == 120
    for split, share in zip(SPLITS, (0.60, 0.10, 0.15, 0.15), strict=True):
        assert abs(sizes[split] / 120 - share) < 0.05
    table = pq.read_table(trained / "splits.parquet").to_pylist()
    for split in ("validation", "calibration", "test"):
        found = {row["image_id"] for row in table if row["split"] == split}
        assert found == set(read_predictions(trained / f"predictions_{split}.parquet").image_id)
    assert {row["image_id"] for row in table} == {path.relative_to(flat).as_posix() for path in flat.rglob("*.jpg")}
    assert "no validation and no calibration and no test split" in card
    again = load_splits(str(flat), "grouped")
    assert {row["image_id"] for row in table if row["split"] == "test"} == set(again.column("test", "image_id"))


def test_images_are_recognised_by_their_content_and_other_files_are_counted(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(flat, folder)
    for name in DRAWN_AS:
        for number, ending in enumerate((".jfif", "", ".dat")):
            (folder / name / f"IMG_{number:03d}.jpg").rename(folder / name / f"IMG_{number:03d}{ending}")
    (folder / "notes.txt").write_text("no image")
    (folder / "mole" / "Thumbs.db").write_bytes(b"no image")
    splits = load_splits(str(folder), "default")
    rows = {
        image: splits.labels[label]
        for split in splits.splits
        for image, label in zip(splits.column(split, "image_id"), splits.splits[split]["label"], strict=True)
    }
    assert len(rows) == 120
    assert all(image.partition("/")[0] == label for image, label in rows.items())
    output = capsys.readouterr().err
    assert "6 images" in output
    assert "2 (.txt 1, .db 1)" in output or "2 (.db 1, .txt 1)" in output


@pytest.mark.parametrize(
    "names", [("Train", "Validation", "Test"), ("TRAINING", "Val", "Testing"), ("train", "valid", "Test")]
)
@pytest.mark.parametrize("nested", ["", "My images [v2]"])
def test_folders_of_splits_are_recognised_in_any_capitals(
    flat: Path, tmp_path: Path, names: tuple[str, str, str], nested: str
) -> None:
    expected: dict[str, set[str]] = {}
    for split, name, numbers in zip(
        ("train", "validation", "test"), names, (range(24), range(24, 30), range(30, 40)), strict=True
    ):
        for label in DRAWN_AS:
            (tmp_path / nested / name / label).mkdir(parents=True)
            for number in numbers:
                shutil.copy(flat / label / f"IMG_{number:03d}.jpg", tmp_path / nested / name / label)
                path = Path(nested, name, label, f"IMG_{number:03d}.jpg")
                expected.setdefault(split, set()).add(path.as_posix())
    splits = load_splits(str(tmp_path), "default")
    assert splits.labels == sorted(DRAWN_AS)
    assert set(splits.column("validation", "image_id")) == expected["validation"]
    assert set(splits.column("test", "image_id")) == expected["test"]
    assert (splits.made or {})["splits"] == ["calibration"]
    made = {*splits.column("train", "image_id"), *splits.column("calibration", "image_id")}
    assert made == expected["train"]


def test_a_folder_for_calibration_is_recognised(flat: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(20)), ("calibration", range(20, 40))):
        for label in DRAWN_AS:
            (tmp_path / split / label).mkdir(parents=True)
            for number in numbers:
                shutil.copy(flat / label / f"IMG_{number:03d}.jpg", tmp_path / split / label)
    splits = load_splits(str(tmp_path), "default")
    assert len(splits.splits["calibration"]) == 60
    assert all(image.startswith("calibration/") for image in splits.column("calibration", "image_id"))


def test_a_class_may_have_the_name_of_a_split(flat: Path, tmp_path: Path) -> None:
    for label, name in zip(DRAWN_AS, ("Test", "mole", "nevus"), strict=True):
        shutil.copytree(flat / label, tmp_path / name)
    splits = load_splits(str(tmp_path), "default")
    assert splits.labels == ["Test", "mole", "nevus"]
    assert sum(map(len, splits.splits.values())) == 120


def test_without_ids_each_image_is_a_group_and_leaks_are_not_denied(trained: Path) -> None:
    report, card = report_of(trained), folder_card(trained)
    dataset = report["provenance"]["dataset"]
    assert dataset["group_ids"] == {"column": None, "missing": {s: v["n"] for s, v in dataset["splits"].items()}}
    assert all(section["groups"] == section["n"] for section in dataset["splits"].values())
    assert list(report["leak_audit"]) == ["unknown"]
    assert report["leak_audit"]["unknown"] in card
    assert "show a lesion that was also in training" not in card
    assert "near-duplicates of one image" not in card
    assert "No test image shows a lesion" not in card


def test_nothing_of_the_recipes_identity_is_on_the_model(trained: Path) -> None:
    report, card = report_of(trained), folder_card(trained)
    text = json.dumps({name: part for name, part in report.items() if name != "code"}) + without_code_files(card)
    assert not [word for word in IDENTITY if word in text]
    assert report["model"]["license"] is None
    assert report["model"]["title"] == "test_efficientnet trained on flat"
    assert report["model"]["name"] == "my_moles"
    assert report["model"]["citation_stated"] is False
    assert "license" not in head(card)
    assert "The weights: not stated." in card
    assert str(trained.parent) not in text


def test_nothing_is_said_about_malignancy_where_no_class_is_named_malignant(trained: Path) -> None:
    report, card = report_of(trained), folder_card(trained)
    config = json.loads((trained / "config.json").read_text())
    assert (config["label_groups"], "missed_risk" in config["trust"]["bands"]["low"]) == ({}, False)
    assert {label["group"] for label in report["model"]["labels"]} == {None}
    clinical = ("malignan", "melanoma", "benign", "cancer", "ham10000", "dermosc")
    lines = [line for line in without_code_files(card).splitlines() if "::test_" not in line]  # its own command
    said = [line[:20] for line in lines if any(word in line.lower() for word in clinical)]
    assert set(said) <= {"| `p_malignant` | `N", "| `decision`, `malig"}


def test_an_absent_promise_is_stated_with_the_number_that_is_needed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, card = report_of(trained), folder_card(trained)
    promise = report["promise"]
    n = report["provenance"]["dataset"]["splits"]["calibration"]["n"]
    assert (promise["possible"], promise["declines"], promise["n"], promise["unit"]) == (False, True, n, "images")
    assert report["trust_evaluation"]["verdicts"]["test"]["answered"]["value"] == 0
    summary = card[: card.index("## How to use it")]
    assert f"from {n} calibration images" in summary
    assert f"About {promise['needed']} are needed" in summary
    print_finished(trained, report)
    last = capsys.readouterr().err.strip().splitlines()
    assert len(last) == 1
    assert f"from {n} calibration images" in last[0]
    assert f"about {promise['needed']} are needed" in last[0]
    assert "trust=False" in last[0]


def test_the_card_says_of_validation_what_the_report_says(trained: Path) -> None:
    report, card = report_of(trained), folder_card(trained)
    assert report["training"]["kept_because"] == "the last, by recipe"
    assert "| validation | nothing |" in card
    assert "chose the epoch." not in card
    assert "choosing the epoch" not in card


def test_trust_is_fitted_again_on_the_very_same_splits(trained: Path, flat: Path, tmp_path: Path) -> None:
    splits = load_splits(str(flat), "grouped")
    report = fit_trust(str(trained), splits, tmp_path / "again", TrustOptions(), replicates=20)
    before = report_of(trained)["provenance"]["dataset"]
    assert report["provenance"]["dataset"]["fingerprint"] == before["fingerprint"]
    assert "trained_on" not in report
    assert report["promise"]["needed"] == report_of(trained)["promise"]["needed"]
    assert (tmp_path / "again" / "splits.parquet").is_file()


# ---------------------------------------------------------------- given splits, partly known groups


@pytest.fixture(scope="module")
def given(rows: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test are given; two images per patient, of every tenth image none is known."""
    patients = [None if row % 10 == 0 else f"p{row // 2}" for row in range(len(rows))]
    table = rows.add_column("group_id", patients)
    test = np.arange(len(rows)) % 4 == 0
    folder = tmp_path_factory.mktemp("given") / "mine"
    return parquet(folder, train=table.select(np.flatnonzero(~test)), test=table.select(np.flatnonzero(test)))


def test_what_is_given_is_kept_and_what_is_stated_is_on_the_card(given: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.bib").write_text("@misc{mine, title = {Moles of our ward}}\n")
    stated = {"title": "Moles of our ward", "license": "cc-by-4.0", "citation": str(tmp_path / "mine.bib")}
    report, card = train(given, tmp_path / "out", "mobilenet", **stated, augmentation="none")
    dataset = report["provenance"]["dataset"]
    assert dataset["made_splits"]["splits"] == ["validation", "calibration"]
    assert dataset["made_splits"]["given"] == ["test"]
    assert dataset["splits"]["test"]["n"] == 30
    missing = dataset["group_ids"]["missing"]
    assert sum(missing.values()) == 12
    assert sum(n for split, n in missing.items() if split != "test") == 6
    # An even image in four is given as test, its partner trains: these groups are on both sides, and counted.
    assert report["leak_audit"]["test"]["leaking"] > 0
    assert report["leak_audit"]["calibration"]["leaking"] == report["leak_audit"]["validation"]["leaking"] == 0
    assert f"{missing['test']} of test" in card
    assert report["model"]["citation"][0] == "@misc{mine, title = {Moles of our ward}}"
    assert "Moles of our ward" in card
    assert (head(card)["license"], report["model"]["title"]) == ("cc-by-4.0", "Moles of our ward")
    assert not [word for word in IDENTITY if word in without_code_files(card)]
    assert report["training"]["kept_because"] == "best validation macro_f1"
    assert "| validation | choosing the epoch |" in card


def test_groups_are_those_of_patients_or_lesions_where_no_group_is_named(
    rows: datasets.Dataset, tmp_path: Path
) -> None:
    patients = [f"p{row // 4}" if row % 3 else "NA" for row in range(len(rows))]
    table = rows.add_column("patient_id", patients).add_column("lesion_id", [f"p{row}" for row in range(len(rows))])
    splits = load_splits(str(parquet(tmp_path / "d", train=table)), "grouped")
    assert splits.ids["column"] == "patient_id or lesion_id"
    assert not splits.ids["alone"]
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for group in splits.column(split, "group_id"):
            where.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    # A lesion that is called as another row's patient is not that patient.
    assert len(where) == 30 + 40


def test_an_image_without_a_group_is_none_of_the_named_groups(rows: datasets.Dataset, tmp_path: Path) -> None:
    ids = [f"i{row}" for row in range(len(rows))]
    groups = [None if row == 0 else "unknown" if row == 1 else "i0" for row in range(len(rows))]
    table = rows.add_column("image_id", ids).add_column("group_id", groups)
    folder = parquet(tmp_path / "d", **{split: table.select(range(6)) for split in SPLITS})
    splits = load_splits(str(folder), "grouped")
    assert splits.made is None
    assert splits.column("train", "group_id").tolist() == ["image i0", "i1", "i0", "i0", "i0", "i0"]


def test_missing_ids_are_never_one_id(rows: datasets.Dataset) -> None:
    splits = Splits({"train": rows.select(range(4))}, list(DRAWN_AS), "d", "default")
    for name in ("image_id", "lesion_id", "group_id"):
        assert len(set(splits.column("train", name))) == 4
    nothing = rows.select(range(2)).add_column("sex", [None, "male"])
    assert Splits({"train": nothing}, [], "d", "c").column("train", "sex").tolist() == ["unknown", "male"]


# ------------------------------------------------------------- labels as text, groups of the classes


def with_table(flat: Path, folder: Path, lines: list[str]) -> Path:
    """A folder of images with a ``metadata.csv`` that names their classes."""
    folder.mkdir()
    for label in DRAWN_AS:
        for path in (flat / label).glob("*.jpg"):
            (folder / f"{label}_{path.name}").write_bytes(path.read_bytes())
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,patient_id,sex", *lines]) + "\n")
    return folder


def lines_of(flat: Path) -> list[str]:
    files = [(label, path.name) for label in DRAWN_AS for path in sorted((flat / label).glob("*.jpg"))]
    return [f"{label}_{name},{label},p{row // 2},{'m' if row else '?!'}" for row, (label, name) in enumerate(files)]


def test_labels_of_a_metadata_file_are_the_classes(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_table(flat, tmp_path / "mine", lines_of(flat))
    splits = load_splits(str(folder), "grouped")
    assert splits.labels == sorted(DRAWN_AS)
    assert splits.ids["column"] == "patient_id"
    for split, rows in splits.splits.items():
        files = [str(name) for name in splits.column(split, "image_id")]
        assert [splits.labels[label] for label in rows["label"]] == [name.partition("_")[0] for name in files]
    output = capsys.readouterr().err
    assert "its 3 values are the classes" in output
    assert "1 values of sex are neither female nor male" in output


def test_an_image_without_a_class_in_the_metadata_file_is_counted(flat: Path, tmp_path: Path) -> None:
    lines = lines_of(flat)
    for row in (0, 5):
        file, _, *rest = lines[row].split(",")
        lines[row] = ",".join([file, "", *rest])
    with pytest.raises(UserError, match=r"the train split .* 2 of 120 images without a label"):
        load_splits(str(with_table(flat, tmp_path / "mine", lines)), "grouped")


def test_a_class_that_train_has_not_is_named(rows: datasets.Dataset, tmp_path: Path) -> None:
    def named(first: str) -> datasets.Dataset:
        names = [first, *(list(DRAWN_AS)[label] for label in rows["label"][1:])]
        return rows.remove_columns("label").add_column("label", names)

    folder = parquet(tmp_path / "d", train=named("mole"), test=named("molle"))
    with pytest.raises(UserError, match=r"the test split .* has the class 'molle'"):
        load_splits(str(folder), "grouped")


def build(given: str) -> Any:
    """The model for three classes of one's own."""
    options, _, _ = parse(words(dataset="d", output_dir="o", model_config=given), "mobilenet_cpu")
    return build_model(options, Splits({}, list(DRAWN_AS), "d", "default"), MobileNetForLesionClassification)[0]


def test_groups_and_names_of_ones_own_classes_can_be_stated() -> None:
    groups = {"suspicious": "malignant", "mole": "benign", "keratosis": "benign"}
    given = {"label_groups": groups, "label_names": {"mole": "Leberfleck"}}
    config = build(json.dumps(given)).config
    assert config.label_groups == given["label_groups"]
    assert config.label_names == {"keratosis": "keratosis", "mole": "Leberfleck", "suspicious": "suspicious"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"label_groups": ["malignant"]}, r"label_groups \['malignant'\]"),
        ({"label_groups": {"suspicious": 1}}, "label_groups"),
        ({"label_groups": {"suspicous": "malignant"}}, "suspicous"),
        ({"label_names": None}, "label_names None"),
        ({"trust": {}}, "trust"),
        ({"backbone": 5}, "5"),
    ],
)
def test_a_wrong_model_config_is_named(given: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build(json.dumps(given))


@pytest.mark.parametrize("missing", [-1, None])
def test_images_without_a_label_name_split_and_count(rows: datasets.Dataset, tmp_path: Path, missing: Any) -> None:
    labels = datasets.ClassLabel(names=list(DRAWN_AS))
    table = rows.select(range(5)).remove_columns("label").add_column("label", [missing, 0, 1, missing, 2])
    folder = parquet(tmp_path / "d", train=rows, test=table.cast_column("label", labels))
    with pytest.raises(UserError, match=r"the test split .* 2 of 5 images without a label"):
        load_splits(str(folder), "grouped")


def test_too_few_images_to_make_a_split_are_named(rows: datasets.Dataset, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "d", train=rows.select(range(12)))
    with pytest.raises(UserError, match=r"no validation and no calibration and no test split.*12 images"):
        load_splits(str(folder), "grouped")


def test_the_only_config_is_taken_unless_another_was_named(
    rows: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = parquet(tmp_path / "d", train=rows)
    assert load_splits(str(folder), "grouped").config_name == "default"
    assert "'default'" in capsys.readouterr().err
    with pytest.raises(UserError, match="'fold3': choose one of default with --config_name"):
        load_splits(str(folder), "fold3")


@pytest.mark.parametrize(
    ("recipe", "source", "kept"),
    [
        ("demo", "phantom", True),
        ("mobilenet", "phantom", False),
        ("mobilenet", "HAM10000", True),
        ("efficientnet", "HAM10000", True),
        ("efficientnet", "ISIC Archive", False),
        ("resnet", None, False),
    ],
)
def test_a_recipes_identity_holds_on_its_own_images_alone(
    rows: datasets.Dataset, recipe: str, source: str | None, kept: bool
) -> None:
    table = rows.select(range(2)).add_column("source", [source, source])
    options, _, resolved = parse(["--dataset", "d", "--output_dir", "o", "--name", "mine"], recipe)
    before = (options.title, options.license)
    settle_identity(options, resolved, Splits({"train": table}, list(DRAWN_AS), "d", "grouped"))
    assert (options.title, options.license) == (before if kept else ("", ""))
    assert ("title" in resolved) is ("license" in resolved) is kept
    assert options.name == resolved["name"] == "mine"


def test_a_recipe_of_ones_own_holds_on_any_images(rows: datasets.Dataset, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("title: Ours\nlicense: mit\ndataset: d\n")
    options, _, resolved = parse(["--recipe", str(recipe), "--output_dir", "o"], "mobilenet")
    settle_identity(options, resolved, Splits({"train": rows.select(range(2))}, list(DRAWN_AS), "d", "grouped"))
    assert (options.title, options.license) == ("Ours", "mit")


def test_a_citation_that_cannot_be_read_is_named(rows: datasets.Dataset) -> None:
    options, _, resolved = parse(["--dataset", "d", "--output_dir", "o", "--citation", "none.bib"], "mobilenet")
    with pytest.raises(UserError, match=r"none\.bib"):
        settle_identity(options, resolved, Splits({"train": rows.select(range(2))}, list(DRAWN_AS), "d", "grouped"))


def test_a_row_without_an_image_is_named(rows: datasets.Dataset, tmp_path: Path) -> None:
    features = datasets.Features({**rows.features, "image": datasets.Image(decode=False)})
    records = rows.cast(features).to_list()
    records[3]["image"] = None
    folder = parquet(tmp_path / "own", train=datasets.Dataset.from_list(records, features=features))
    with pytest.raises(UserError, match="1 of 120 rows without an image"):
        load_splits(str(folder), "default")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Dataset scripts are no longer supported, but found b.py"), ValueError("bad card"), KeyError("x")],
)
def test_a_dataset_that_the_library_cannot_load_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    with pytest.raises(UserError, match=rf"'a/b' cannot be loaded \({type(error).__name__}"):
        load_splits("a/b", "grouped")
