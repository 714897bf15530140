"""Several files or zip archives as one list of pictures, with everything that a hostile archive may try refused.

Nothing is unpacked to the disk: members are read one by one into memory, never more of one than an image may have, so
that a path in an archive leads nowhere and a bomb has nothing to blow up.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from image_files import LARGEST_FILE, ImageUnusableError

MOST_IMAGES = 200
MOST_MEMBERS = 2_000  # entries of an archive, folders and hidden files among them
LARGEST_ARCHIVE = 200_000_000  # bytes, packed
LARGEST_UNPACKED = 600_000_000  # bytes, of all members together
# Deflate cannot do better than about 1030; pictures, packed already, stay near 1.
HIGHEST_RATIO = 200.0
LONGEST_NAME = 80


class BatchRefusedError(ValueError):
    """A whole upload that is not looked at; the message is fit for the page."""


@dataclass(frozen=True)
class Entry:
    """One file of a batch.

    Attributes:
        name: what to call it on the page: the last part of its path, shortened.
        source: a path on the disk, or None where it lies in an archive.
        archive: the archive that it lies in.
        member: its entry there.
    """

    name: str
    source: Path | None = None
    archive: Path | None = None
    member: zipfile.ZipInfo | None = None

    def read(self) -> bytes:
        """Its bytes, at most one more than an image may have.

        Raises:
            ImageUnusableError: it cannot be read or unpacked, or unpacks to far more than it should.
        """
        try:
            if self.source is not None:
                with self.source.open("rb") as file:
                    return file.read(LARGEST_FILE + 1)
            assert self.archive is not None
            assert self.member is not None
            with zipfile.ZipFile(self.archive) as archive, archive.open(self.member) as file:
                return file.read(LARGEST_FILE + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            why = "it is locked by a password" if "password" in str(error) else "the archive is damaged here"
            raise ImageUnusableError(f"This file cannot be unpacked: {why}.") from error


def list_entries(paths: Sequence[str | os.PathLike[str]], names: Sequence[str] | None = None) -> list[Entry]:
    """Every file of a batch in the order given, archives opened up.

    Args:
        paths: files and zip archives, told apart by content.
        names: what the files were called; None = the last part of each path.

    Raises:
        BatchRefusedError: nothing in it, too many files, an archive that is damaged or a bomb.
    """
    entries: list[Entry] = []
    for number, path in enumerate(map(Path, paths)):
        name = names[number] if names is not None else path.name
        if _is_archive(path):
            entries.extend(_members(path, name))
        else:
            entries.append(Entry(short(name), source=path))
        if len(entries) > MOST_IMAGES:
            raise BatchRefusedError(f"There are more than {MOST_IMAGES} files; give at most {MOST_IMAGES} at a time.")
    if not entries:
        raise BatchRefusedError("There is no picture in this upload. Give pictures, or a zip archive of pictures.")
    return entries


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            # An empty archive begins with the second of these.
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def _members(path: Path, name: str) -> Iterator[Entry]:
    """The files of an archive, in the order of their paths."""
    if path.stat().st_size > LARGEST_ARCHIVE:
        raise BatchRefusedError(f"{short(name)} is larger than {LARGEST_ARCHIVE / 1e6:.0f} MB; split it.")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise BatchRefusedError(f"{short(name)} is no zip archive that can be read. Pack it again.") from error
    if len(infos) > MOST_MEMBERS:
        raise BatchRefusedError(f"{short(name)} has {len(infos)} entries; at most {MOST_MEMBERS} are taken.")
    if sum(info.file_size for info in infos) > LARGEST_UNPACKED:
        raise BatchRefusedError(f"{short(name)} unpacks to more than {LARGEST_UNPACKED / 1e6:.0f} MB; split it.")
    for info in sorted(infos, key=lambda info: info.filename):
        if info.is_dir() or _hidden(info.filename):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            continue  # a link leads out of the archive, and is no picture
        if info.file_size > HIGHEST_RATIO * max(info.compress_size, 1):
            raise BatchRefusedError(f"{short(name)} is packed far too tightly to hold pictures; it is not opened.")
        yield Entry(short(info.filename), archive=path, member=info)


def _hidden(path: str) -> bool:
    """Whether an entry is what systems add by themselves: hidden files, and macOS's shadow folder."""
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in PurePosixPath(path).parts)


def short(name: str) -> str:
    """The last part of a path of any system, printable and shortened; its folders are left out on purpose."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or "file"
    printable = "".join(c if c.isprintable() else "?" for c in last)
    return printable if len(printable) <= LONGEST_NAME else printable[: LONGEST_NAME - 3] + "..."
