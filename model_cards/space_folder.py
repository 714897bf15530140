"""A Space's folder, checked before any request to a server: its files, its front matter, its requirements."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from datasets_scripts.command import UserError
from model_cards.card import REPORT
from model_cards.imports import covered, gradio_image, parse, texts, third_party
from model_cards.manifest import MANIFEST

README = "README.md"
REQUIREMENTS = "requirements.txt"
CONSTRAINTS = "constraints.txt"
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
LONGEST_DESCRIPTION = 60

# Names under which people keep secrets. Code and style sheets (tokens.css) are evaluated by their text alone.
SECRET_NAME = re.compile(
    r"^id_(rsa|dsa|ecdsa|ed25519)$|\.(pem|key|p12|pfx|jks|keystore|kdbx)$"
    r"|(^|[._-])(secrets?|tokens?|credentials?|passwords?)([._-]|$)",
    re.IGNORECASE,
)
CODE = (".css", ".html", ".js", ".md", ".py")
SECRET_TEXT = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{40,}|\bxox[abprs]-[\w-]{20,}|\bsk-[A-Za-z0-9_-]{32,}"
)


@dataclass(frozen=True)
class SpaceFolder:
    """A Space whose folder passed all checks.

    Attributes:
        folder: where it lies.
        card: the front matter of its README.
        files: what is uploaded, relative posix paths in order.
        left_out: files and folders (with a slash at the end) that stay here.
        provided: distributions that its machine will have, in canonical spelling.
        reads: the ``LESION_...`` variables that its code names.
    """

    folder: Path
    card: dict[str, Any]
    files: list[str]
    left_out: list[str]
    provided: frozenset[str]
    reads: frozenset[str]


def is_space(folder: Path, given: bool = False) -> bool:
    """Whether a folder is meant as a Space: its README has an ``sdk``, or it has an ``app.py``.

    Args:
        folder: any path.
        given: the caller requests a Space; then it is one, unless it is a finished model or dataset.
    """
    folder = Path(folder)
    if not folder.is_dir() or any((folder / name).is_file() for name in (REPORT, "audit.json")):
        return False
    readme = folder / README
    has_sdk = readme.is_file() and re.search(rb"^sdk\s*:", readme.read_bytes(), re.MULTILINE) is not None
    return given or has_sdk or (folder / "app.py").is_file()


def read_space(folder: Path) -> SpaceFolder:
    """Read and check a Space's folder.

    Raises:
        UserError: what is wrong first, with what to do; one of its ``.py`` files does not parse.
    """
    folder = Path(folder)
    card = front_matter(folder)
    files, left_out = space_files(folder)
    check_front_matter(card, files)
    requirements = read_requirements(folder / REQUIREMENTS)
    check_versions(folder, str(card["sdk_version"]), requirements)
    provided = gradio_image() | set(requirements)
    return SpaceFolder(folder, card, files, left_out, provided, check_code(folder, files, provided))


def front_matter(folder: Path) -> dict[str, Any]:
    """The YAML on top of the README.

    Raises:
        UserError: there is none, or it is no YAML.
    """
    path = folder / README
    if not path.is_file():
        raise UserError(f"{folder} has no {README}: a Space begins with one whose front matter says sdk: gradio")
    try:
        data = metadata_load(path)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"the front matter of {path} is no YAML mapping ({' '.join(str(error).split())})") from error
    if not data:
        raise UserError(f"{path} has no front matter: begin it with lines between --- and ---, sdk: gradio among them")
    return dict(data)


def check_front_matter(card: dict[str, Any], files: list[str]) -> None:
    """Refuse front matter that the Hub refuses, or with which the page does not start.

    Raises:
        UserError: names the key and its value.
    """

    def wrong(key: str, advice: str) -> UserError:
        return UserError(f"{README} has {key}: {card.get(key)!r} in its front matter: {advice}")

    if card.get("sdk") != "gradio":
        raise wrong("sdk", "only gradio Spaces are deployed, write sdk: gradio")
    for key, pattern, example in (
        ("sdk_version", r"\d+\.\d+\.\d+", "6.31.0"),
        ("python_version", r"3\.\d+(\.\d+)?", '"3.11" (quoted, or YAML reads a number)'),
    ):
        if not isinstance(card.get(key), str) or not re.fullmatch(pattern, card[key]):
            raise wrong(key, f"write it out, like {example}")
    if card.get("app_file") not in files:
        raise wrong("app_file", "name the Python file that starts the page")
    for key in ("colorFrom", "colorTo"):
        if key in card and card[key] not in COLORS:
            raise wrong(key, f"choose one of {', '.join(COLORS)}")
    if len(str(card.get("short_description", ""))) > LONGEST_DESCRIPTION:
        raise wrong("short_description", f"the Hub takes {LONGEST_DESCRIPTION} characters at most")


def space_files(folder: Path) -> tuple[list[str], list[str]]:
    """What of a folder is uploaded, and what is left out: hidden files, caches, tests, virtual environments.

    Returns:
        (files, left out), relative posix paths in order; a folder that is left out ends with a slash.

    Raises:
        UserError: a link that leads out of what is uploaded, or a file that looks like a secret.
    """
    files: list[str] = []
    left_out: list[str] = []
    for parent, folders, names in os.walk(folder):
        kept = []
        for name in sorted(folders):
            path = Path(parent) / name
            if is_left_out(path, folder):
                left_out.append(path.relative_to(folder).as_posix() + "/")
            elif path.is_symlink():
                raise UserError(f"{path} is a link to {os.readlink(path)}: put the folder itself there")
            else:
                kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            path = Path(parent) / name
            (left_out if is_left_out(path, folder) else files).append(path.relative_to(folder).as_posix())
    inside = {(folder / name).resolve() for name in files if not (folder / name).is_symlink()}
    for path in (folder / name for name in files):
        if path.resolve() not in inside:
            raise UserError(f"{path} is a link to {os.readlink(path)}: put the file itself there")
        check_no_secret(path)
    return sorted(files), sorted(left_out)


def is_left_out(path: Path, folder: Path) -> bool:
    """Whether a file or folder of a Space is not for the Hub."""
    name = path.name
    if path.is_dir():
        return name.startswith(".") or name in {"__pycache__", "tests"} or (path / "pyvenv.cfg").is_file()
    is_test = name.endswith(".py") and (name.startswith("test_") or name == "conftest.py")
    return name.startswith(".") or is_test or name.endswith(".pyc") or path == folder / MANIFEST


def check_no_secret(path: Path) -> None:
    """Refuse a file that is named like a secret, or that holds the text of one; the text is not shown.

    Raises:
        UserError: names the file, and the line.
    """
    if SECRET_NAME.search(path.name) and path.suffix not in CODE:
        raise UserError(f"{path} is called like a secret: delete it, or rename it if it is none")
    content = path.read_bytes()
    found = SECRET_TEXT.search(content)
    if found:
        line = content.count(b"\n", 0, found.start()) + 1
        raise UserError(f"{path} line {line} holds what looks like a secret: make it a secret of the Space instead")


def read_requirements(path: Path) -> dict[str, Requirement]:
    """``requirements.txt`` by canonical name; options of pip (``--extra-index-url``) are passed over.

    Raises:
        UserError: absent, a line that is no requirement, or a line that refers to another file.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has no {REQUIREMENTS}: name there what the page imports")
    found: dict[str, Requirement] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if re.match(r"-r|-c|--requirement|--constraint", text):
            raise UserError(f"{path} line {number} refers to another file ({text!r}): write the requirements out")
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise UserError(f"{path} line {number} is no requirement: {text!r}") from error
        found[canonicalize_name(requirement.name)] = requirement
    return found


def check_versions(folder: Path, sdk_version: str, requirements: dict[str, Requirement]) -> None:
    """Refuse a Space whose gradio is not one and the same, or which requires other versions than were tested.

    The Hub installs gradio in the front matter's ``sdk_version``. ``requirements.txt`` must allow it, and it must be
    the version of ``constraints.txt``, where the checkout has one. Every other requirement must allow its version too.

    Raises:
        UserError: names both versions.
    """
    gradio = requirements.get("gradio")
    if gradio is not None and not gradio.specifier.contains(sdk_version, prereleases=True):
        raise UserError(f"{README} says sdk_version: {sdk_version}, {REQUIREMENTS} says {gradio}: make them agree")
    pins = tested_versions(folder)
    if pins.get("gradio", sdk_version) != sdk_version:
        raise UserError(
            f"{README} says sdk_version: {sdk_version}, {CONSTRAINTS} says gradio=={pins['gradio']}: make them agree"
        )
    for name, requirement in requirements.items():
        if name in pins and not requirement.specifier.contains(pins[name], prereleases=True):
            raise UserError(
                f"{REQUIREMENTS} says {requirement}, {CONSTRAINTS} says {name}=={pins[name]}: make them agree"
            )


def tested_versions(folder: Path) -> dict[str, str]:
    """The pins of the checkout's ``constraints.txt``, canonical name -> version; empty where there is no checkout."""
    for place in [folder.resolve(), *folder.resolve().parents]:
        path = place / CONSTRAINTS
        if path.is_file():
            rows = [line.partition("#")[0].strip().partition("==") for line in path.read_text("utf-8").splitlines()]
            return {canonicalize_name(name): version for name, pinned, version in rows if pinned}
        if (place / "pyproject.toml").is_file():
            break
    return {}


def pinned_requirements(folder: Path) -> tuple[str, list[str]]:
    """``requirements.txt`` with every library at the version that was tested, and the names of those without one.

    Comments, options of pip, extras, markers and addresses stay. Without a checkout the text stays as it is.
    """
    text, pins, without = (folder / REQUIREMENTS).read_text("utf-8"), tested_versions(folder), []
    lines = text.split("\n") if pins else []
    for number, line in enumerate(lines):
        body = re.sub(r"(^|\s)#.*", "", line).strip()
        if not body or body.startswith("-"):
            continue
        requirement = Requirement(body)
        version = pins.get(canonicalize_name(requirement.name))
        if version and not requirement.url:
            requirement.specifier = SpecifierSet(f"=={version}")
            lines[number] = line.replace(body, str(requirement), 1)
        elif not requirement.url:
            without.append(requirement.name)
    return "\n".join(lines) if pins else text, without


def check_code(folder: Path, files: list[str], provided: frozenset[str]) -> frozenset[str]:
    """Parse every Python file and look for imports that the Space's machine would not have.

    Returns:
        The ``LESION_...`` variables that the files name.

    Raises:
        UserError: an import that nothing brings; a file does not parse.
    """
    own = {name.split("/")[0].removesuffix(".py") for name in files}
    reads: set[str] = set()
    for name in files:
        if not name.endswith(".py"):
            continue
        tree = parse(folder / name, str(folder / name))
        reads |= {text for text in texts(tree) if re.fullmatch(r"LESION_[A-Z_]+", text)}
        for line, module in third_party(tree):
            if module not in own and not covered(module, provided):
                raise UserError(f"{name} line {line} imports {module}, which {REQUIREMENTS} does not name: add it")
    return frozenset(reads)
