"""The files of a downloaded archive: in folders, or in the zip files as downloaded."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path, PurePosixPath

from datasets_scripts.command import UserError
from datasets_scripts.images import HEAD, is_image, kind_of, passed_over_text

Reader = Callable[[], bytes]
OWN_CLASSES = (
    "classes of your own: build them with lesion build_images --source DIR --out OUT, or train on class folders as "
    "they are with accelerate launch trainers/train_mobilenet.py --dataset DIR --output_dir OUT"
)
LARGEST_FILE = 512_000_000  # bytes; images and tables of archives are far smaller
_ENCRYPTED = 0x1
# What zipfile and its decompressors raise on a damaged file.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError, ValueError,
    OverflowError, struct.error,
)  # fmt: skip


class ArchiveFiles:
    """Every file under a folder, and inside each zip file under it; or of one zip file.

    Attributes:
        root: what was opened.
        entries: (path to show, function that reads its bytes), unpacked files first, each part sorted.
        parquet: the Parquet files, sorted.
        image_entries: those of ``entries`` that are images.
    """

    def __init__(self, root: Path) -> None:
        """List the files.

        Raises:
            UserError: ``root`` does not exist, is no folder or zip file, has no file, or holds a broken zip file.
        """
        self.root = root
        if not root.exists():
            raise UserError(f"archive folder {root} does not exist; give the folder of the download")
        if root.is_file() and root.suffix.lower() != ".zip":
            raise UserError(f"{root} is a file; give the folder of the download, or one zip file")
        self._not_entered: Counter[str] = Counter()
        self._repeated = 0
        paths = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        paths = [path for path in paths if not self._hidden(PurePosixPath(path.relative_to(root).as_posix()))]
        self.parquet = [path for path in paths if path.suffix.lower() == ".parquet"]
        found: list[tuple[PurePosixPath, _Read]] = [
            (PurePosixPath(path.relative_to(root).as_posix()), partial(_read_file, path))
            for path in paths
            if path.suffix.lower() != ".zip"
        ]
        for path in paths:
            if path.suffix.lower() == ".zip":
                members = [entry for entry in _zip_entries(path) if not self._hidden(entry[0])]
                found += [(PurePosixPath(path.name) / name, read) for name, read in members]
        self.entries: list[tuple[PurePosixPath, Reader]] = list(found)
        self.image_entries = [(path, read) for path, read in found if _is_image(path, read)]
        if not self.entries:
            raise UserError(f"archive folder {root} is empty; put the download there")

    def own_classes(self) -> str:
        """Advice for images in folders of several classes, as the end of a message; "" where there are none."""
        folders = {path.parent for path, _ in self.image_entries}
        named = sorted({folder.name for folder in folders if folder.name})
        if len(named) < 2:
            return ""
        shown = ", ".join(named[:4]) + (", ..." if len(named) > 4 else "")
        return f" ({shown}: {OWN_CLASSES})"

    def images(self) -> dict[str, Reader]:
        """Image files by stem; of files with one stem (Kaggle's copy has each folder twice) the first counts."""
        found: dict[str, Reader] = {}
        for path, reader in self.image_entries:
            found.setdefault(path.stem, reader)
        self._repeated = len(self.image_entries) - len(found)
        return found

    def warnings(self, read: Collection[PurePosixPath] = ()) -> list[str]:
        """Sentences that count skipped files: those that are no images, and images with the name of another.

        Args:
            read: the tables that were read.
        """
        taken = {*read, *(path for path, _ in self.image_entries)}
        passed_over = self._not_entered + Counter(kind_of(path.name) for path, _ in self.entries if path not in taken)
        warnings = []
        if passed_over:
            warnings.append(f"Files that are no images were passed over: {passed_over_text(passed_over)}.")
        if self._repeated:
            warnings.append(
                f"{self._repeated} images have the name of another one and were left out; the first counts."
            )
        return warnings

    def _hidden(self, path: PurePosixPath) -> bool:
        """Whether a file was written by a desktop or a tool (``._x.jpg``, ``__MACOSX``, ``.cache``); counts those."""
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        self._not_entered["hidden"] += hidden
        return hidden


_Read = Callable[..., bytes]  # as Reader, or with the number of bytes to read


def _is_image(path: PurePosixPath, read: _Read) -> bool:
    if is_image(path.name, b""):
        return True
    try:
        return is_image(path.name, read(HEAD))
    except (UserError, OSError):
        return False  # reported where the file is read


def _read_file(path: Path, most: int = -1) -> bytes:
    with path.open("rb") as file:
        if most < 0:
            _check_size(path, path.stat().st_size)
        return file.read(most)


def _check_size(name: object, size: int) -> None:
    if size > LARGEST_FILE:
        raise UserError(
            f"{name} has {size / 1e6:,.0f} MB, at most {LARGEST_FILE / 1e6:.0f} MB are read: it is no image or table "
            "of such an archive, remove it"
        )


def _zip_entries(path: Path) -> list[tuple[PurePosixPath, _Read]]:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise UserError(f"{path} is no readable zip file ({error}); download it again") from error
    members = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    if any(info.flag_bits & _ENCRYPTED for info in members):
        raise UserError(f"{path} is encrypted; unpack it with its password and give the folder")
    return [(PurePosixPath(info.filename), partial(_read_member, archive, info)) for info in members]


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int = -1) -> bytes:
    name = f"{archive.filename}: {info.filename}"
    if most < 0:
        _check_size(name, info.file_size)  # zipfile reads no more than that, whatever the member holds
    try:
        with archive.open(info) as file:
            return file.read(most)
    except _DAMAGED as error:
        raise UserError(f"{name} cannot be unpacked, the file is damaged ({error})") from error
