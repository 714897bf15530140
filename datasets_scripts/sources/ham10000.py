"""HAM10000 (Tschandl, Rosendahl, Kittler 2018) as downloaded, or from a public mirror.

Known layouts: images in ``HAM10000_images_part_1`` and ``_part_2`` or in one folder, unpacked or zipped, beside
``HAM10000_metadata`` (``.csv``, ``.tab`` or no suffix) and, optionally, lesion masks ``<image_id>_segmentation.png``;
or Parquet with HAM10000's columns, in a folder or on the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets_scripts.command import UserError
from datasets_scripts.rows import Archive, Row
from datasets_scripts.sources import tables
from datasets_scripts.sources.archive_files import ArchiveFiles, Reader
from datasets_scripts.sources.ham10000_table import Record, parse, row_values, without_repeats

SOURCE = "HAM10000"
LICENSE = "cc-by-nc-4.0"
ATTRIBUTION = "Tschandl, Rosendahl, Kittler: The HAM10000 dataset (2018), ViDIR Group, Medical University of Vienna"
FULL_ROWS = 10_015
CITATION = """
@article{tschandl2018ham10000,
  title   = {The {HAM10000} dataset, a large collection of multi-source dermatoscopic images
             of common pigmented skin lesions},
  author  = {Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald},
  journal = {Scientific Data},
  volume  = {5},
  pages   = {180161},
  year    = {2018},
  doi     = {10.1038/sdata.2018.161}
}
"""
SOURCE_HELP = (
    "HAM10000 as downloaded: the folder with images and metadata, unpacked or zipped; or a folder of Parquet files "
    "with its columns; or the id organisation/name of such a dataset on the Hub"
)
_MASK_SUFFIX = "_segmentation"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def read(source: str, with_masks: bool = True) -> Archive:
    """Read HAM10000 from a folder, a zip file, a folder of Parquet files, or a dataset of the Hub.

    Args:
        source: path, or ``organisation/name`` of a Hub dataset.
        with_masks: also take the segmentations, where there are some.

    Returns:
        Rows in the order of the metadata table: the published scripts split it in that order.

    Raises:
        UserError: nothing usable is there.
        MetadataError: the table is incomplete or contradicts itself.
        UnknownLabelError: a diagnosis is not HAM10000's.
    """
    if not Path(source).exists() and _HUB_ID.fullmatch(source):
        from datasets_scripts.sources import ham10000_mirror  # imports datasets, which --help need not wait for

        records, images, warnings = ham10000_mirror.read_hub(source)
    else:
        files = ArchiveFiles(Path(source))
        table = _find_table(files)
        if table is None and files.parquet:
            from datasets_scripts.sources import ham10000_mirror

            records, images, warnings = ham10000_mirror.read_files(files.parquet, source)
            warnings += files.warnings([PurePosixPath(path.relative_to(files.root)) for path in files.parquet])
        elif table is None:
            raise UserError(
                f"{source} has no HAM10000_metadata.csv; put the metadata table beside the images{files.own_classes()}"
            )
        else:
            records, warnings = parse(table[1](), table[0])
            images = files.images()
            warnings += files.warnings([PurePosixPath(table[0])])
    unique, repeats = without_repeats(records)
    warnings = [*repeats, *tables.sex_warnings(record["sex"] for record in unique), *warnings]
    masks = {s.removesuffix(_MASK_SUFFIX): reader for s, reader in images.items() if s.endswith(_MASK_SUFFIX)}
    photos = {stem: reader for stem, reader in images.items() if not stem.endswith(_MASK_SUFFIX)}
    warnings = [*_check_images(unique, photos, source), *_extra_masks(masks, photos), *warnings]
    rows = [_row(record, photos, masks if with_masks else {}) for record in unique]
    return Archive(rows, warnings)


def is_layout(source: str) -> bool:
    """Whether ``source`` is for :func:`read`: it has HAM10000's table or Parquet, or is a name that is no path here.

    Raises:
        UserError: as :class:`ArchiveFiles`.
    """
    if not Path(source).exists():
        return True
    files = ArchiveFiles(Path(source))
    if files.parquet:
        return True
    return any(_is_named(path) or "dx" in tables.columns_of(read(), str(path)) for path, read in _tables(files))


def _find_table(files: ArchiveFiles) -> tuple[str, Reader] | None:
    """The metadata table with any suffix; HAM10000_metadata is preferred to other names with metadata."""
    found = _tables(files)
    found = [entry for entry in found if _is_named(entry[0])] or found
    if len(found) > 1:
        names = ", ".join(str(path) for path, _ in found)
        raise UserError(f"{files.root} has {len(found)} metadata tables ({names}); leave one")
    return (str(found[0][0]), found[0][1]) if found else None


def _tables(files: ArchiveFiles) -> list[tuple[PurePosixPath, Reader]]:
    """Files whose name may be that of the metadata table."""
    return [
        (path, reader)
        for path, reader in files.entries
        if path.suffix.lower() in ("", ".csv", ".tab", ".tsv", ".txt") and "metadata" in path.stem.lower()
    ]


def _is_named(path: PurePosixPath) -> bool:
    return path.stem.lower() == "ham10000_metadata"


def _check_images(records: Sequence[Record], photos: Mapping[str, Reader], source: str) -> list[str]:
    """A warning that counts images without a row, if there are some.

    Raises:
        MetadataError: a row has no image.
    """
    advice = "put HAM10000_images_part_1 and HAM10000_images_part_2 (folders or zip files) beside the metadata"
    tables.check_present([record["image_id"] for record in records], photos, source, advice)
    extra = len(photos) - len(records)
    return [f"{extra} images without a row in the metadata were left out."] if extra else []


def _extra_masks(masks: Mapping[str, Reader], photos: Mapping[str, Reader]) -> list[str]:
    """A warning that counts masks without an image, if there are some."""
    extra = len(set(masks) - set(photos))
    return [f"{extra} masks without an image were left out."] if extra else []


def _row(record: Record, photos: Mapping[str, Reader], masks: Mapping[str, Reader]) -> Row:
    values: dict[str, Any] = dict(row_values(record))
    image_id = record["image_id"]
    return Row(
        **values,
        read=photos[image_id],
        read_mask=masks.get(image_id),
        source=SOURCE,
        license=LICENSE,
        attribution=ATTRIBUTION,
    )
