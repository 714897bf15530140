"""The files of a downloaded archive, wherever they lie: in folders, or in the zip files as downloaded."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from datasets_scripts.command import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
Reader = Callable[[], bytes]
_ENCRYPTED = 0x1


class ArchiveError(UserError):
    """An archive folder that is missing, empty, or holds a broken zip file."""


class ArchiveFiles:
    """Every file under a folder, and inside each zip file under it; or of one zip file.

    Attributes:
        root: what was opened.
        entries: (path for people, function that reads its bytes), unpacked files first, each part sorted.
        parquet: the Parquet files, sorted.
    """

    def __init__(self, root: Path) -> None:
        """List the files.

        Raises:
            ArchiveError: ``root`` does not exist, is no folder or zip file, has no file, or holds a broken zip file.
        """
        self.root = root
        if not root.exists():
            raise ArchiveError(f"archive folder {root} does not exist; give the folder of the download")
        if root.is_file() and root.suffix.lower() != ".zip":
            raise ArchiveError(f"{root} is a file; give the folder of the download, or one zip file")
        paths = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        paths = [path for path in paths if not _hidden(PurePosixPath(path.relative_to(root).as_posix()))]
        self.parquet = [path for path in paths if path.suffix.lower() == ".parquet"]
        self.entries: list[tuple[PurePosixPath, Reader]] = [
            (PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes)
            for path in paths
            if path.suffix.lower() != ".zip"
        ]
        for path in paths:
            if path.suffix.lower() == ".zip":
                self.entries += _zip_entries(path)
        if not self.entries:
            raise ArchiveError(f"archive folder {root} is empty; put the download there")

    def images(self) -> dict[str, Reader]:
        """Image files by stem; of files with one stem (Kaggle's copy has each folder twice) the first counts."""
        found: dict[str, Reader] = {}
        for path, reader in self.entries:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(path.stem, reader)
        return found


def _hidden(path: PurePosixPath) -> bool:
    """Files that desktops leave behind (``._x.jpg``, ``__MACOSX``, ``.cache``), never part of an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _zip_entries(path: Path) -> list[tuple[PurePosixPath, Reader]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{path} is no readable zip file ({error}); download it again") from error
    members = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    if any(info.flag_bits & _ENCRYPTED for info in members):
        raise ArchiveError(f"{path} is encrypted; unpack it with its password and give the folder")
    return [
        (PurePosixPath(path.name) / info.filename, partial(_read_member, archive, info))
        for info in members
        if not _hidden(PurePosixPath(info.filename))
    ]


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"{archive.filename}: {info.filename} cannot be unpacked ({error})") from error
