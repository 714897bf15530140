"""A download of the ISIC Archive by isic-cli: images ``ISIC_*.jpg`` beside ``metadata.csv``, benign against malignant.

``diagnosis_1`` is the label; older exports prefix their columns (``metadata.clinical.diagnosis_1``). HAM10000 is part
of the archive, and its layout maps to the same task: its akiec is ``Indeterminate`` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from datasets_scripts.command import UserError
from datasets_scripts.rows import UNKNOWN, Archive, Row
from datasets_scripts.sources import tables
from datasets_scripts.sources.archive_files import ArchiveFiles, Reader
from datasets_scripts.taxonomy import canonical, malignancy_groups

SOURCE = "ISIC Archive"
CITATION = """
@misc{isic_archive,
  title  = {The {ISIC} Archive},
  author = {{International Skin Imaging Collaboration}},
  note   = {Images under the licence that the column license states, each attributed as the column attribution states}
}
"""
INDETERMINATE = "indeterminate"
_ID, _LABEL = "isic_id", "diagnosis_1"
_FINER = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2")
# The columns that are read.
_READ = (
    _ID, _LABEL, *_FINER, "copyright_license", "lesion_id", "age_approx", "sex", "anatom_site_general",
    "diagnosis_confirm_type", "attribution", "patient_id", "image_type",
)  # fmt: skip
# Licences as the archive writes them -> Hub licence ids.
LICENSES = {"cc-0": "cc0-1.0", "cc-by": "cc-by-4.0", "cc-by-nc": "cc-by-nc-4.0"}
_DERMOSCOPIC = "dermoscopic"
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")


def is_download(source: str) -> bool:
    """Whether ``source`` holds a metadata table of the ISIC Archive; one without its id column also counts when it is
    called ``metadata.csv`` and is not HAM10000's, so that the reader can report what it lacks.

    Raises:
        UserError: as :class:`ArchiveFiles`.
    """
    return Path(source).exists() and bool(_tables(ArchiveFiles(Path(source))))


def read(source: str) -> Archive:
    """Read the images that are benign or malignant; the others are dropped and counted.

    Args:
        source: folder (or zip file) as isic-cli downloads it.

    Returns:
        Rows sorted by image id, of task ``isic_binary``. ``diagnosis`` is the finest diagnosis given; an image
        without a lesion id is its own lesion; images of one patient share ``patient_id``.

    Raises:
        UserError: nothing usable is there.
        MetadataError: the table is incomplete, or names images that are not there.
        UnknownLabelError: ``diagnosis_1`` is none of the archive's.
    """
    files = ArchiveFiles(Path(source))
    found = _tables(files)
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise UserError(f"{source} has {len(found)} metadata tables ({names}); leave one metadata.csv of isic-cli")
    name, content = found[0]
    columns, records = tables.read_table(content(), name)
    records = [{_plain(column): value for column, value in record.items()} for record in records]
    tables.check_columns([_plain(column) for column in columns], (_ID, _LABEL), name)
    images = files.images()
    advice = "download them with isic-cli, or remove their rows"
    tables.check_present([record[_ID] for record in records], images, source, advice)
    rows = [_row(record, images) for record in records if _meaning(record) not in (INDETERMINATE, UNKNOWN)]
    warnings = _dropped(records)
    warnings += tables.sex_warnings(record.get("sex", "") for record in records)
    warnings += tables.unread_warnings(map(_plain, columns), _READ, name)
    warnings += files.warnings([PurePosixPath(name)])
    extra = len(images) - len({record[_ID] for record in records})
    if extra > 0:
        warnings.append(f"{extra} images without a row in the metadata were left out.")
    return Archive(sorted(rows, key=lambda row: row.image_id), warnings + _other_types(records))


def from_ham10000(archive: Archive) -> Archive:
    """HAM10000's rows with ISIC's labels: mel and bcc are malignant; akiec, ``Indeterminate`` there, is dropped."""
    groups = malignancy_groups({row.label for row in archive.rows})
    rows = [
        replace(row, label=groups[row.label], diagnosis=row.label)
        for row in archive.rows
        if groups[row.label] != "premalignant"
    ]
    dropped = len(archive.rows) - len(rows)
    warning = f"{dropped} images of akiec were dropped: the ISIC Archive calls it Indeterminate."
    return Archive(rows, [*archive.warnings, *([warning] if dropped else [])])


def license_of(rows: Sequence[Row]) -> str:
    """The Hub licence id that all rows share, else ``other``."""
    licenses = {row.license for row in rows}
    return licenses.pop() if len(licenses) == 1 and licenses <= set(LICENSES.values()) else "other"


def _plain(column: str) -> str:
    """``metadata.clinical.diagnosis_1`` -> ``diagnosis_1``."""
    return column.rsplit(".", 1)[-1]


def _tables(files: ArchiveFiles) -> list[tuple[str, Reader]]:
    """Tables with the archive's id column; without any, ``metadata.csv`` unless its columns are HAM10000's."""
    with_id, named = [], []
    for path, reader in files.entries:
        if path.suffix.lower() in _TABLE_SUFFIXES and "metadata" in path.stem.lower():
            columns = {_plain(column) for column in tables.columns_of(reader(), str(path))}
            if _ID in columns:
                with_id.append((str(path), reader))
            elif path.stem.lower() == "metadata" and not {"dx", "lesion_id"} <= columns:
                named.append((str(path), reader))
    return with_id or named


def _meaning(record: Mapping[str, str]) -> str:
    return tables.known(record[_LABEL])


def _row(record: Mapping[str, str], images: Mapping[str, Reader]) -> Row:
    image_id = record[_ID]
    finer = [record[column] for column in _FINER if record.get(column)]
    license = tables.known(record.get("copyright_license", ""))
    return Row(
        image_id=image_id,
        label=canonical("isic_binary", record[_LABEL]),
        read=images[image_id],
        lesion_id=record.get("lesion_id") or image_id,
        age=tables.age(record.get("age_approx", ""), image_id),
        sex=tables.sex(record.get("sex", "")),
        localization=tables.known(record.get("anatom_site_general", "")),
        dx_type=tables.known(record.get("diagnosis_confirm_type", "")),
        source=SOURCE,
        license=LICENSES.get(license, license),
        attribution=record.get("attribution") or UNKNOWN,
        diagnosis=finer[0] if finer else None,
        patient_id=record.get("patient_id") or None,
    )


def _dropped(records: Sequence[Mapping[str, str]]) -> list[str]:
    count = Counter(_meaning(record) for record in records)
    indeterminate, missing = count[INDETERMINATE], count[UNKNOWN]
    if not indeterminate + missing:
        return []
    return [
        f"{indeterminate + missing} of {len(records)} images are neither benign nor malignant and were dropped: "
        f"{indeterminate} Indeterminate, {missing} without a {_LABEL}."
    ]


def _other_types(records: Sequence[Mapping[str, str]]) -> list[str]:
    count = Counter(tables.known(record.get("image_type", "")) for record in records)
    others = {kind: n for kind, n in sorted(count.items()) if kind not in (_DERMOSCOPIC, UNKNOWN)}
    if not others:
        return []
    listed = ", ".join(f"{kind} {n}" for kind, n in others.items())
    return [f"{sum(others.values())} of {len(records)} images are not dermoscopic ({listed}); they were not dropped."]
