"""Several files or zip archives as one list of images, with everything that a hostile archive may try refused.

Nothing is unpacked to the disk: members are read one by one into memory, never more of one than an image may have, so
that a path in an archive leads nowhere and a bomb has nothing to blow up.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from image_files import LARGEST_FILE, ImageUnusableError, too_large

MOST_IMAGES = 200
MOST_MEMBERS = 2_000  # entries of an archive, folders and hidden files among them
LARGEST_ARCHIVE = 200_000_000  # bytes, packed
LARGEST_UNPACKED = 600_000_000  # bytes, of all members together
# Deflate cannot do better than about 1030; images, packed already, stay near 1.
HIGHEST_RATIO = 200.0
LONGEST_NAME = 80
LONGEST_PATH = 160  # of a file in an archive, with its folders
# What zipfile and its decompressors raise for bytes that are no archive, or a damaged, locked or unknown one.
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError,
            ArithmeticError, LookupError, MemoryError)  # fmt: skip


class BatchRefusedError(ValueError):
    """A whole upload that is refused; the message is fit for the page."""


@dataclass(frozen=True)
class Entry:
    """One file of a batch.

    Attributes:
        name: what to call it on the page: the last part of its path, shortened; in an archive with its folders there.
        source: a path on the disk, or None where it lies in an archive.
        archive: the archive that it lies in.
        member: its entry there.
    """

    name: str
    source: Path | None = None
    archive: Path | None = None
    member: zipfile.ZipInfo | None = None

    def read(self) -> bytes:
        """The bytes of a file in an archive.

        Raises:
            ImageUnusableError: it cannot be unpacked, or would have more bytes than an image may.
        """
        assert self.archive is not None
        assert self.member is not None
        # What the archive says is not to be trusted, but zipfile gives no more than that.
        if self.member.file_size > LARGEST_FILE:
            raise ImageUnusableError(too_large(self.member.file_size))
        try:
            with zipfile.ZipFile(self.archive) as archive, archive.open(self.member) as file:
                return file.read(LARGEST_FILE + 1)
        except _DAMAGED as error:
            why = "the archive is damaged here"
            if isinstance(error, NotImplementedError):
                why = "it is packed in a way that is not known here"
            elif "password" in str(error):
                why = "it is locked by a password"
            raise ImageUnusableError(f"This file cannot be unpacked: {why}.") from error


def list_entries(paths: Sequence[str | os.PathLike[str]], names: Sequence[str] | None = None) -> list[Entry]:
    """Every file of a batch in the order given, archives opened up.

    Args:
        paths: files and zip archives, distinguished by content.
        names: what the files were called; None = the last part of each path.

    Raises:
        BatchRefusedError: nothing in it, too many files, an archive that is damaged or a bomb.
    """
    entries: list[Entry] = []
    several = sum(_is_archive(Path(path)) for path in paths) > 1
    for number, path in enumerate(map(Path, paths)):
        name = names[number] if names is not None else path.name
        if _is_archive(path):
            entries.extend(_members(path, name, f"{short(name)}/" if several else ""))
        else:
            entries.append(Entry(short(name), source=path))
        if len(entries) > MOST_IMAGES:
            raise BatchRefusedError(f"There are more than {MOST_IMAGES} files; give at most {MOST_IMAGES} at a time.")
    if not entries:
        raise BatchRefusedError("There is no image in this upload. Give images, or a zip archive of images.")
    return entries


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            # An empty archive begins with the second of these.
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def _members(path: Path, name: str, under: str) -> Iterator[Entry]:
    """The files of an archive, in the order of their paths; ``under`` stands before each name."""
    if path.stat().st_size > LARGEST_ARCHIVE:
        raise BatchRefusedError(f"{short(name)} is larger than {LARGEST_ARCHIVE / 1e6:.0f} MB; split it.")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _DAMAGED as error:
        raise BatchRefusedError(f"{short(name)} is no zip archive that can be read. Pack it again.") from error
    if len(infos) > MOST_MEMBERS:
        raise BatchRefusedError(f"{short(name)} has {len(infos)} entries; at most {MOST_MEMBERS} are taken.")
    if sum(info.file_size for info in infos) > LARGEST_UNPACKED:
        raise BatchRefusedError(f"{short(name)} unpacks to more than {LARGEST_UNPACKED / 1e6:.0f} MB; split it.")
    for info in sorted(infos, key=lambda info: info.filename):
        if info.is_dir() or _hidden(info.filename):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            continue  # a link leads out of the archive, and is no image
        if info.file_size > HIGHEST_RATIO * max(info.compress_size, 1):
            raise BatchRefusedError(f"{short(name)} is packed far too tightly to hold images; it is not opened.")
        yield Entry(within(under + info.filename), archive=path, member=info)


def _hidden(path: str) -> bool:
    """Whether an entry is what systems add by themselves: hidden files, and macOS's shadow folder."""
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in PurePosixPath(path).parts)


def short(name: str) -> str:
    """The last part of a path of any system, printable and shortened; its folders are left out on purpose."""
    last = _printable(name.replace("\\", "/").rstrip("/").rpartition("/")[2] or "file")
    return last if len(last) <= LONGEST_NAME else last[: LONGEST_NAME - 3] + "..."


def within(path: str) -> str:
    """A file's path inside an archive, to tell two of one name apart: relative, printable, its end where it is long."""
    *folders, last = path.replace("\\", "/").rstrip("/").split("/")
    parts = [_printable(part) for part in folders if part not in ("", ".", "..") and part[1:] != ":"]
    whole = "/".join([*parts, short(last)])
    return whole if len(whole) <= LONGEST_PATH else "..." + whole[3 - LONGEST_PATH :]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
