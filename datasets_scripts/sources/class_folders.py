"""Images in folders named as their classes, also under train, validation and test, and under real and synthetic.

An image is synthetic by a folder ``synthetic``, by its file name ``<parent>_syn<k>`` or ``<parent>-synthetic-<k>``, or
by ``provenance.csv`` (columns file, provenance and, optionally, parent), which overrides the file names. It belongs to
the lesion of its parent.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from datasets_scripts.command import UserError
from datasets_scripts.rows import REAL, SYNTHETIC, Archive, Row
from datasets_scripts.sources import tables
from datasets_scripts.sources.archive_files import OWN_CLASSES, ArchiveFiles, Reader
from datasets_scripts.sources.tables import class_name
from datasets_scripts.splits import PUBLISHED_SPLITS, split_named
from datasets_scripts.taxonomy import UnknownLabelError, canonical

SOURCE = "class folders"
PROVENANCE_TABLE = "provenance.csv"
_SYNTHETIC_NAME = re.compile(r"(?P<parent>.+?)(_syn|-synthetic-)(?P<number>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Placed:
    """An image file with the facts that its folders name; ``split`` and ``provenance`` are ``None`` where not named."""

    path: PurePosixPath
    read: Reader
    label: str
    split: str | None
    provenance: str | None


def split_of(path: PurePosixPath) -> str | None:
    """The split that a folder of ``path`` names, ``None`` when none does."""
    return _split_of(_folders(path))


def _split_of(folders: Sequence[str]) -> str | None:
    return next((split for part in folders if (split := split_named(part))), None)


def place(
    path: PurePosixPath, read: Reader, task: str | None, classes: Collection[PurePosixPath] = frozenset()
) -> Placed:
    """An image with the facts that its folders name; the innermost that is no split and no provenance is the class.

    Args:
        path, read: of the image.
        task: whose classes the folders are; None = any folder is a class.
        classes: folders that are classes although they are called as a split or a provenance is.

    Raises:
        UserError: the image lies in no class folder.
        UnknownLabelError: the folder is no class of the task.
    """
    folders = _folders(path)
    if path.parent in classes:
        label, folders = folders[-1], folders[:-1]
    else:
        named = [part for part in folders if not _is_word(part)]
        if not named:
            raise UserError(f"image {path} lies in no class folder; move it into the folder of its class or remove it")
        label = named[-1]
    if task is None:
        label = class_name(label) or label
    else:
        try:
            label = canonical(task, label)
        except UnknownLabelError as error:
            raise UnknownLabelError(
                f"folder of {path}: {error}; rename or remove the folder ({OWN_CLASSES})"
            ) from error
    provenance = next((part.lower() for part in folders if part.lower() in (REAL, SYNTHETIC)), None)
    return Placed(path, read, label, _split_of(folders), provenance)


def _is_word(folder: str) -> bool:
    """Whether a folder is called as a split or a provenance is."""
    return split_named(folder) is not None or folder.lower() in (REAL, SYNTHETIC)


def _classes_called_as_splits(paths: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """Folders called as a split or a provenance that hold images and, in folders below them, none."""
    direct = {path.parent for path in paths}
    above = {folder for one in direct for folder in one.parents}
    return {folder for folder in direct - above if _is_word(folder.name)}


def image_ids(placed: Sequence[Placed]) -> list[str]:
    """A unique id for each image: the file's stem, with its folders before it where several files have that stem."""
    return unique_names([one.path for one in placed])


def unique_names(paths: Sequence[PurePosixPath]) -> list[str]:
    """The stem of each file, with its folders before it where several files have it, else its whole path."""
    count = Counter(path.stem for path in paths)
    names = [
        path.stem
        if count[path.stem] == 1
        else "_".join([part.removesuffix(".zip") for part in path.parts[:-1]] + [path.stem]).replace(" ", "_")
        for path in paths
    ]
    twice = Counter(names)
    return [name if twice[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def read(source: str, task: str | None) -> Archive:
    """Read every image, real or synthetic.

    Args:
        source: folder (or zip file) with class folders, in any nesting with split and provenance folders.
        task: whose classes the folders are; None = each folder is a class of its own name.

    Returns:
        Rows sorted by image id; ``lesion_id`` is the image's own id, or its parent's. ``splits`` where each of
        train, validation and test has images; without a task as the folders name them.

    Raises:
        UserError: there is no image, or one in no class folder.
        UnknownLabelError: a folder is no class of the task.
        MetadataError: ``provenance.csv`` lacks a column, or names a file that is not there.
        UserError: origins contradict, or a parent is not there.
    """
    files = ArchiveFiles(Path(source))
    called = set() if task else _classes_called_as_splits([path for path, _ in files.image_entries])
    placed = [place(path, read, task, called) for path, read in files.image_entries]
    if not placed:
        raise UserError(f"{source} has no image; give the folder that holds the class folders")
    ids = image_ids(placed)
    records, tables_read, unread = _provenance_table(files)
    origins = _Origins(placed, records)
    lesions = origins.roots()
    rows = [
        Row(ids[i], one.label, one.read, ids[lesions[i]], source=SOURCE, provenance=origins.provenance[i])
        for i, one in enumerate(placed)
    ]
    order = sorted(range(len(rows)), key=lambda i: ids[i])
    named, rows = [placed[i].split for i in order], [rows[i] for i in order]
    if task is None:
        if SYNTHETIC not in origins.provenance:
            rows = [replace(row, provenance=None) for row in rows]
        return Archive(rows, [*unread, *files.warnings(tables_read)], named if any(named) else None)
    splits, of_splits = own_splits(named)
    return Archive(rows, [*origins.warnings(), *of_splits, *unread, *files.warnings(tables_read)], splits)


def own_splits(splits: list[str | None]) -> tuple[list[str | None] | None, list[str]]:
    """The archive's own splits, ``None`` unless each of the three has images, and warnings."""
    missing = [split for split in PUBLISHED_SPLITS if split not in splits]
    if len(missing) == len(PUBLISHED_SPLITS):
        return None, []
    if missing:
        return None, [f"The source has no {' and no '.join(missing)} images, so its own splits are not followed."]
    outside = splits.count(None)
    return splits, [f"{outside} images lie outside train, validation and test."] if outside else []


def _folders(path: PurePosixPath) -> list[str]:
    """Folders of a file, outermost first; a zip file counts as the folder of its name."""
    return [re.sub(r"\.zip$", "", part, flags=re.IGNORECASE) for part in path.parts[:-1]]


def _provenance_table(files: ArchiveFiles) -> tuple[list[dict[str, str]], list[PurePosixPath], list[str]]:
    """The rows of the table, its path, and warnings of columns that were not read; all empty where there is none."""
    found = [(path, reader) for path, reader in files.entries if path.name.lower() == PROVENANCE_TABLE]
    if len(found) > 1:
        raise UserError(f"{files.root} has {len(found)} files {PROVENANCE_TABLE}; leave one")
    if not found:
        return [], [], []
    columns, records = tables.read_table(found[0][1](), str(found[0][0]))
    tables.check_columns(columns, ("file", "provenance"), str(found[0][0]))
    unread = tables.unread_warnings(columns, ("file", "provenance", "parent"), PROVENANCE_TABLE)
    return records, [found[0][0]], unread


class _Origins:
    """Which images are synthetic, and from which image each was made; images are numbers 0 to N-1 here."""

    def __init__(self, placed: Sequence[Placed], records: Sequence[Mapping[str, str]]) -> None:
        self.placed = placed
        self.provenance = [one.provenance or REAL for one in placed]
        self.parent: dict[int, int] = {}
        self._by_name: defaultdict[str, list[int]] = defaultdict(list)
        for i, one in enumerate(placed):
            for name in {one.path.name, one.path.stem}:
                self._by_name[name].append(i)
        listed = {self._listed(record) for record in records}
        if len(listed) < len(records):
            raise UserError(f"{PROVENANCE_TABLE} lists a file twice; leave one row for each")
        for i, one in enumerate(placed):
            named = _SYNTHETIC_NAME.fullmatch(one.path.stem)
            if named is None or i in listed:
                continue
            if one.provenance == REAL:
                raise UserError(
                    f"{one.path} is in a folder for real images and is named as a synthetic one; move or rename it, "
                    f"or list it in {PROVENANCE_TABLE}"
                )
            self.provenance[i] = SYNTHETIC
            self._set_parent(i, named["parent"])

    def _listed(self, record: Mapping[str, str]) -> int:
        """Apply one row of the table; returns the number of its image."""
        i = self._find(record["file"], f"listed in {PROVENANCE_TABLE}", "remove its row")
        path, provenance = self.placed[i].path, record["provenance"].lower()
        if provenance not in (REAL, SYNTHETIC):
            raise UserError(f"{PROVENANCE_TABLE} says {provenance!r} of {path}; give {REAL} or {SYNTHETIC}")
        folder = self.placed[i].provenance
        if folder not in (None, provenance):
            raise UserError(f"{path} is {provenance} in {PROVENANCE_TABLE} and lies in a folder {folder}; fix one")
        self.provenance[i] = provenance
        if record.get("parent"):
            self._set_parent(i, record["parent"])
        return i

    def _set_parent(self, i: int, name: str) -> None:
        advice = f"list the image in {PROVENANCE_TABLE} with its parent, or with none where it is not known"
        self.parent[i] = self._find(name, f"the parent of {self.placed[i].path}", advice, child=i)

    def _find(self, name: str, what: str, advice: str, child: int | None = None) -> int:
        """The image with this path, file name or stem; for a child another image, of the same class if possible."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        found = [i for i in self._by_name.get(wanted.name, []) if i != child]
        if len(wanted.parts) > 1:
            found = [i for i in found if self.placed[i].path.parts[-len(wanted.parts) :] == wanted.parts]
        if child is not None:
            found = [i for i in found if self.placed[i].label == self.placed[child].label] or found
        if not found:
            raise UserError(f"{name!r}, {what}, is not in the folder; add it, or {advice}")
        if len(found) > 1:
            paths = f"{self.placed[found[0]].path} and {self.placed[found[1]].path}"
            raise UserError(f"{name!r}, {what}, may be {paths}; name it by its path in {PROVENANCE_TABLE}")
        return found[0]

    def roots(self) -> list[int]:
        """For each image the original that it was made from, itself where there is none.

        Raises:
            UserError: images were made of each other.
        """
        result = []
        for i in range(len(self.placed)):
            root, seen = i, {i}
            while root in self.parent:
                root = self.parent[root]
                if root in seen:
                    raise UserError(f"{self.placed[i].path} is its own parent; fix {PROVENANCE_TABLE}")
                seen.add(root)
            result.append(root)
        return result

    def warnings(self) -> list[str]:
        """Warnings about unknown facts of the synthetic images."""
        synthetic = [i for i, provenance in enumerate(self.provenance) if provenance == SYNTHETIC]
        if not synthetic:
            return [
                f"No image is marked as synthetic (folder synthetic, file name <parent>_syn<k>, {PROVENANCE_TABLE}): "
                "all count as real."
            ]
        orphans = sum(i not in self.parent for i in synthetic)
        if not orphans:
            return []
        return [
            f"{orphans} of {len(synthetic)} synthetic images have no known parent; each is its own group unless it "
            "looks like another image, so images made from one lesion may be in two splits."
        ]
