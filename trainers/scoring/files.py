"""Which images are scored, and what tables say of them: found once, written down, and read as a stream ever after.

The listing is a JSON line per image: its path below the folder, its size in bytes, and its rows of ``--metadata`` and
``--labels``. So neither the number of images nor the tables weigh on the memory of a worker.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from datasets_scripts.command import UserError
from datasets_scripts.images import IMAGE_SUFFIXES, frames_in, is_image_file, kind_of
from datasets_scripts.sources.tables import MetadataError, read_file, read_table
from trainers.metrics.predictions import TEXT_COLUMNS

IMAGE_COLUMN = "image"
Row = dict[str, str]


@dataclass(frozen=True)
class Listed:
    """One image to score.

    Attributes:
        image: its path below the folder, with ``/`` on every system.
        size: bytes.
        metadata: its row of ``--metadata``, None where it has none.
        labels: its row of ``--labels``, None where it has none.
    """

    image: str
    size: int
    metadata: Row | None
    labels: Row | None


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        images: how many.
        sha256: of all paths, sizes, metadata and what the labels' rows say of the patients, in order; two listings of
            one hash are scored alike.
        with_metadata: how many images have a row of ``--metadata``.
        with_labels: how many images have a row of ``--labels``.
        several: how many files hold several frames or pages, of which the first is scored.
    """

    images: int
    sha256: str
    with_metadata: int
    with_labels: int
    several: int = 0


class Table:
    """A CSV file with one row per image, found by the image's path, its file name, or its name without the ending.

    Args:
        path: comma- or tab-separated, UTF-8, with a header.
        option: the option it was given with, for messages.
        required: columns it must have beside ``image``.

    Raises:
        UserError: it cannot be read, lacks a column, has no row, or one image twice.
    """

    def __init__(self, path: Path, option: str, required: tuple[str, ...] = ()) -> None:
        self.where = f"{option} {path.name}"
        try:
            self.columns, rows = read_table(read_file(path), self.where)
        except OSError as error:
            raise UserError(f"{option} {str(path)!r} cannot be read ({error.strerror}): give a CSV file") from error
        except MetadataError as error:
            raise UserError(str(error)) from error
        for column in (IMAGE_COLUMN, *required):
            if column not in self.columns:
                raise UserError(
                    f"{self.where} has no column {column!r} (it has: {', '.join(self.columns) or 'none'}): give "
                    f"{','.join((IMAGE_COLUMN, *required))}"
                )
        self.rows: dict[str, Row] = {}
        for row in rows:
            name = row[IMAGE_COLUMN].replace("\\", "/").removeprefix("./")
            if name in self.rows:
                raise UserError(f"{self.where} names image {name!r} twice: give one row per image")
            self.rows[name] = row
        if not self.rows:
            raise UserError(f"{self.where} holds no image: give one row per image")
        self._found: dict[str, str] = {}

    def take(self, image: str) -> Row | None:
        """The row of an image, None where there is none.

        Raises:
            UserError: two rows mean this image, or its row means another image, too.
        """
        base = image.rpartition("/")[2]
        keys = dict.fromkeys((image, base, base.rpartition(".")[0]))
        # A row that names another image in full is that one's; such images come first, they lie in the folder itself.
        named = [key for key in keys if key in self.rows and not (key != image and self._found.get(key) == key)]
        if not named:
            return None
        if len(named) > 1:
            raise UserError(f"{self.where}: {named[0]!r} and {named[1]!r} are both {image!r}: give one row per image")
        other = self._found.setdefault(named[0], image)
        if other != image:
            raise UserError(
                f"{self.where}: {named[0]!r} may be {other!r} or {image!r}: give the path below the folder of --images"
            )
        return self.rows[named[0]]

    def check_all_taken(self, root: Path) -> None:
        """Refuse rows of images that are not there.

        Raises:
            UserError: counts them and names the first.
        """
        left = [name for name in self.rows if name not in self._found]
        if left:
            raise UserError(
                f"{self.where}: {len(left)} of {len(self.rows)} images are not in --images {root.name!r}, the first is "
                f"{left[0]!r}: give the folder that holds them, or leave their rows out"
            )


def walk_images(
    root: Path, without: tuple[Path, ...] = (), passed_over: Counter[str] | None = None
) -> Iterator[tuple[str, int]]:
    """Path below the folder and size of every image in it, folder by folder, in a fixed order.

    An image is a file with an image's ending or an image's first bytes; hidden files and folders are passed over,
    links to folders not followed.

    Args:
        root: the folder.
        without: folders not to enter.
        passed_over: counts what is passed over, by kind.
    """
    closed = {str(path.absolute()) for path in without}
    count: Counter[str] = Counter() if passed_over is None else passed_over
    for parent, folders, names in os.walk(root):
        inside = [name for name in folders if os.path.abspath(os.path.join(parent, name)) not in closed]
        folders[:] = sorted(name for name in inside if name[0] != "." and name != "__MACOSX")
        count["hidden folders"] += len(inside) - len(folders)
        count["links to folders"] += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        for name in sorted(names):
            path = Path(parent, name)
            if name[0] != "." and is_image_file(path):
                yield path.relative_to(root).as_posix(), _size(path)
            else:
                count[kind_of(name)] += 1


def one_image(path: Path) -> Iterator[tuple[str, int]]:
    """A single file, as :func:`walk_images` yields it."""
    yield path.name, _size(path)


def write_listing(
    images: Iterator[tuple[str, int]], root: Path, out: IO[str], metadata: Table | None, labels: Table | None
) -> Listing:
    """Write the listing as JSON lines.

    Args:
        images: path below ``root`` and size of each.
        root: the folder, for messages.
        out: where to write.
        metadata: rows to go with them.
        labels: rows to go with them.

    Raises:
        UserError: there is no image; a table names an image that is not there, or one that it might mean two of.
    """
    digest, counts, several = hashlib.sha256(), [0, 0, 0], 0
    for image, size in images:
        rows = [None if table is None else table.take(image) for table in (metadata, labels)]
        # What is known of the patient chooses the thresholds of a model that has them by group.
        patient = {name: rows[1][name] for name in ("age", *TEXT_COLUMNS) if name in rows[1]} if rows[1] else {}
        digest.update(json.dumps([image, size, rows[0], *([patient] if patient else [])]).encode())
        # ASCII, so that a name that is no valid UTF-8 comes back as it was.
        out.write(json.dumps([image, size, *rows]) + "\n")
        counts = [counts[0] + 1, counts[1] + (rows[0] is not None), counts[2] + (rows[1] is not None)]
        several += frames_in(root / image) > 1
    if not counts[0]:
        raise UserError(f"--images {str(root)!r} holds no image ({', '.join(IMAGE_SUFFIXES)}): give a folder of images")
    for table in (metadata, labels):
        if table is not None:
            table.check_all_taken(root)
    return Listing(counts[0], digest.hexdigest(), counts[1], counts[2], several)


def read_listing(path: Path) -> Iterator[Listed]:
    """The listed images in order, one at a time."""
    with path.open(encoding="ascii") as file:
        for line in file:
            yield Listed(*json.loads(line))


def read_parts(path: Path, size: int, wanted: Any) -> Iterator[tuple[int, list[Listed]]]:
    """The listing cut into parts of ``size`` images: (number, images) of those whose number is in ``wanted``."""
    with path.open(encoding="ascii") as file:
        number = 0
        while lines := list(islice(file, size)):
            if number in wanted:
                yield number, [Listed(*json.loads(line)) for line in lines]
            number += 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # a broken link: a row with its error, like any file that cannot be read
