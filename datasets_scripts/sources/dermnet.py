"""DermNet's folder layout, ``{train,test}/<Class name>/*.jpg``, from which the suite reads the acne photos.

The photos have no licence: they may be used locally, never distributed. The archive's own train and test
folders are not used as splits.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from datasets_scripts.command import UserError
from datasets_scripts.rows import Archive, Row
from datasets_scripts.sources.archive_files import ArchiveFiles
from datasets_scripts.taxonomy import UnknownLabelError, canonical

SOURCE = "DermNet"
LICENSE = "unknown"
ATTRIBUTION = "DermNet layout; photographers not named by the archive"


def read(source: str) -> Archive:
    """Read the acne photos.

    Args:
        source: folder (or zip file) that holds ``train`` and ``test``.

    Returns:
        Rows sorted by image id. The archive names no lesions, so each image is its own until the duplicate search
        merges some; several photos of one person cannot be recognised.

    Raises:
        UserError: the folder is missing or has no acne photo.
    """
    files = ArchiveFiles(Path(source))
    taken = []
    left_out = 0
    for path, content in files.image_entries:
        try:
            taken.append((path, content, canonical("dermnet", path.parent.name)))
        except UnknownLabelError:
            left_out += 1
    if not taken:
        raise UserError(
            f"{source} has no image in a folder 'Acne and Rosacea Photos'; give the folder that holds DermNet's "
            f"train and test{files.own_classes()}"
        )
    stems = Counter(path.stem for path, _, _ in taken)
    rows = []
    for path, content, label in taken:
        # The same file name in train and in test names two photos.
        image_id = path.stem if stems[path.stem] == 1 else f"{path.parent.parent.name}_{path.stem}"
        rows.append(Row(image_id, label, content, image_id, source=SOURCE, license=LICENSE, attribution=ATTRIBUTION))
    warnings = [f"{left_out} images of other DermNet classes were left out."] if left_out else []
    warnings += files.warnings()
    return Archive(sorted(rows, key=lambda row: row.image_id), warnings)
