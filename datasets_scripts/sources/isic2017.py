"""The ISIC 2017 challenge, part 3 (melanoma, nevus, seborrheic keratosis): as downloaded, or in class folders.

Known layouts: ``ISIC-2017_{Training,Validation,Test_v2}_Data`` beside ``ISIC-2017_*_Part3_GroundTruth.csv``, unpacked
or zipped; or ``{train,valid,test}/{melanoma,nevus,seborrheic_keratosis}``. Superpixel images are ignored.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from datasets_scripts.command import UserError
from datasets_scripts.images import stretched_squares
from datasets_scripts.rows import UNKNOWN, Archive, Row
from datasets_scripts.sources import class_folders, tables
from datasets_scripts.sources.archive_files import ArchiveFiles, Reader
from datasets_scripts.taxonomy import TASKS

SOURCE = "ISIC 2017 challenge"
LICENSE = "cc0-1.0"
ATTRIBUTION = "International Skin Imaging Collaboration (ISIC): Skin Lesion Analysis Towards Melanoma, ISBI 2017"
CITATION = """
@inproceedings{codella2018isic2017,
  title     = {Skin lesion analysis toward melanoma detection: A challenge at the 2017 International Symposium on
               Biomedical Imaging ({ISBI}), hosted by the International Skin Imaging Collaboration ({ISIC})},
  author    = {Codella, Noel C. F. and Gutman, David and Celebi, M. Emre and Helba, Brian and Marchetti, Michael A.
               and Dusza, Stephen W. and Kalloo, Aadi and Liopyris, Konstantinos and Mishra, Nabin and
               Kittler, Harald and Halpern, Allan},
  booktitle = {IEEE 15th International Symposium on Biomedical Imaging (ISBI)},
  pages     = {168--172},
  year      = {2018}
}
"""
UNSQUEEZED = (
    "This copy of ISIC 2017 had been squeezed to squares. Its images were stretched to {0}:{1} again, the shape of "
    "most originals; the true shape of each image is not known."
)
_TASK = "isic2017"
_TRUTH = re.compile(r"isic-2017_(training|validation|test)(_v2)?_part3_groundtruth", re.IGNORECASE)
_SPLITS = {"training": "train", "validation": "validation", "test": "test"}
_COLUMNS = ("image_id", "melanoma", "seborrheic_keratosis")
_NO_PHOTO = ("_superpixels", "_segmentation")
# (melanoma, seborrheic_keratosis) of the ground truth -> class
_CLASS_OF = {(1.0, 0.0): "mel", (0.0, 0.0): "nv", (0.0, 1.0): "sk"}

_Labelled = tuple[str, str, Reader, str | None]  # image id, class, reader, split


def is_layout(source: str) -> bool:
    """Whether ``source`` holds the challenge's ground truth, or images under train, valid or test.

    Raises:
        UserError: as :class:`ArchiveFiles`.
    """
    if not Path(source).exists():
        return False
    files = ArchiveFiles(Path(source))
    if any(_TRUTH.fullmatch(path.stem) for path, _ in files.entries):
        return True
    return any(class_folders.split_of(path) is not None for path, _ in files.image_entries)


def add_unsqueeze(options: argparse.ArgumentParser) -> None:
    """The option ``--unsqueeze`` of the commands that read the challenge."""
    options.add_argument(
        "--unsqueeze",
        type=_ratio,
        metavar="W:H",
        help="stretch square images of ISIC 2017 to this shape: for copies that were squeezed to squares",
    )


def _ratio(text: str) -> tuple[int, int]:
    sides = text.split(":")
    if len(sides) != 2 or not all(side.isdigit() and 1 <= int(side) <= 100 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no ratio of width to height; give one such as 4:3")
    return int(sides[0]), int(sides[1])


def read(source: str, unsqueeze: tuple[int, int] | None = None) -> Archive:
    """Read the challenge's images.

    Args:
        source: folder (or zip file) in one of the layouts.
        unsqueeze: width and height of the shape that square images are stretched to; None = they stay square.

    Returns:
        Rows sorted by image id, with the official splits where all three are there. The challenge names no lesions:
        each image is its own until the duplicate search merges some. Ages and sexes where ``*_metadata.csv`` is there.

    Raises:
        UserError: nothing usable is there.
        MetadataError: a table lacks a column, states both classes for one image, or names images that are not there.
        UnknownLabelError: a folder is none of the three classes.
    """
    files = ArchiveFiles(Path(source))
    images = files.images()
    truths = {path: read for path, read in files.entries if _TRUTH.fullmatch(path.stem)}
    photos = {stem: read for stem, read in images.items() if not stem.lower().endswith(_NO_PHOTO)}
    if truths:
        labelled = [
            entry for path, read in truths.items() for entry in _of_truth(read(), path.name, path.stem, photos, source)
        ]
    else:
        labelled = _of_folders(files)
    patients, sexes, tables_read = _patients(files)
    rows, splits = [], []
    for image_id, label, reader, split in sorted(labelled, key=lambda entry: entry[0]):
        read_image = stretched_squares(reader, unsqueeze) if unsqueeze else reader
        row = Row(image_id, label, read_image, image_id, source=SOURCE, license=LICENSE, attribution=ATTRIBUTION)
        row.read_mask = images.get(f"{image_id}_segmentation")
        row.age, row.sex = patients.get(image_id, (None, UNKNOWN))
        rows.append(row)
        splits.append(split)
    own, warnings = class_folders.own_splits(splits)
    extra = len(photos) - len({row.image_id for row in rows}) if truths else 0
    if extra:
        warnings.append(f"{extra} images without a row in the ground truth were left out.")
    superpixels = sum(path.stem.lower().endswith("_superpixels") for path, _ in files.image_entries)
    if superpixels:
        warnings.append(f"{superpixels} superpixel images were left out.")
    warnings += [*sexes, *files.warnings([*truths, *tables_read])]
    return Archive(rows, warnings, own)


def from_ham10000(archive: Archive) -> Archive:
    """HAM10000's mel, nv and bkl; the others are dropped and counted."""
    labels = TASKS["isic2017_ham"]
    dropped = Counter(row.label for row in archive.rows if row.label not in labels)
    listed = ", ".join(f"{label} {count}" for label, count in sorted(dropped.items()))
    warning = f"{sum(dropped.values())} images of other classes were dropped ({listed})."
    rows = [row for row in archive.rows if row.label in labels]
    return Archive(rows, [*archive.warnings, *([warning] if dropped else [])])


def _of_truth(content: bytes, where: str, stem: str, photos: Mapping[str, Reader], source: str) -> list[_Labelled]:
    """One table of the ground truth."""
    match = _TRUTH.fullmatch(stem)
    assert match is not None, stem
    columns, records = tables.read_table(content, where)
    tables.check_columns(columns, _COLUMNS, where)
    folder = re.sub("_part3_groundtruth", "_Data", stem, flags=re.IGNORECASE)
    advice = f"put {folder} (folder or zip file) beside {where}"
    tables.check_present([record["image_id"] for record in records], photos, source, advice)
    return [
        (record["image_id"], _class(record, where), photos[record["image_id"]], _SPLITS[match[1].lower()])
        for record in records
    ]


def _class(record: Mapping[str, str], where: str) -> str:
    values = (record["melanoma"], record["seborrheic_keratosis"])
    try:
        return _CLASS_OF[(float(values[0]), float(values[1]))]
    except (KeyError, ValueError) as error:
        raise tables.MetadataError(
            f"{where}: image {record['image_id']} has melanoma {values[0]!r} and seborrheic_keratosis {values[1]!r}; "
            "give 0 or 1 each, and not 1 for both"
        ) from error


def _of_folders(files: ArchiveFiles) -> list[_Labelled]:
    """Images in class folders under train, valid and test."""
    placed = [
        class_folders.place(path, read, _TASK)
        for path, read in files.image_entries
        if not path.stem.lower().endswith(_NO_PHOTO)
    ]
    if not placed:
        raise UserError(f"{files.root} has no image in train, valid or test; give the folder that holds them")
    return [(one.path.stem, one.label, one.read, one.split) for one in placed]


def _patients(files: ArchiveFiles) -> tuple[dict[str, tuple[float | None, str]], list[str], list[PurePosixPath]]:
    """Of every ``*_metadata.csv`` of the challenge: image id -> age and sex; warnings; the tables' paths."""
    found: dict[str, tuple[float | None, str]] = {}
    sexes: list[str] = []
    paths: list[PurePosixPath] = []
    for path, reader in files.entries:
        if path.suffix.lower() != ".csv" or not path.stem.lower().endswith("_metadata"):
            continue
        columns, records = tables.read_table(reader(), path.name)
        tables.check_columns(columns, ("image_id", "age_approximate", "sex"), path.name)
        paths.append(path)
        sexes += [record["sex"] for record in records]
        for record in records:
            image_id = record["image_id"]
            found[image_id] = (tables.age(record["age_approximate"], image_id), tables.sex(record["sex"]))
    return found, tables.sex_warnings(sexes), paths
