"""The documents: every command that they show is parsed by that command, and every file that they link is there."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainers.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
FOLDERS = ("trainers", "datasets_scripts", "spaces", "model_cards")
FOUND = [path for pattern in ("*.md", *(f"{folder}/**/*.md" for folder in FOLDERS)) for path in ROOT.glob(pattern)]
FOUND += [ROOT / "hub_models" / "README.md", ROOT / "tests" / "README.md"]
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in FOUND)
# The cards of the released models are written by a program: their links are checked, too.
CARDS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("hub_models/released/*/*.md"))
LINK = re.compile(r"(?<!`)\[[^\]\[]*\]\(([^)\s]+)\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}
# A command at the start of a line of a code block.
COMMAND = re.compile(
    r"^ *((?:[A-Z_]+=\S+ )*"
    r"(?:lesion |python -m (?:datasets_scripts|trainers|model_cards)\.|python trainers/|accelerate launch |torchrun )"
    r".+)$",
    re.MULTILINE,
)


class Accepted(BaseException):
    """A parser accepted the command line; no ``except Exception`` of a command catches this."""


def commands(document: str) -> Iterator[str]:
    """The command lines in the code blocks of a document."""
    text = (ROOT / document).read_text("utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from COMMAND.findall(block.replace("\\\n", " "))


def words(command: str) -> list[str]:
    """The words of a command line, with values for its shell variables and without what only a reader needs."""
    command = re.sub(r"\[,\.\.\.\]|\[@REVISION\]|\.\.\.(?=\s|$)", "", command)
    command = re.sub(r"(?<=\s)\[(-[^\]]+)\]", r"\1", command)  # an option that may be left out
    command = re.sub(r"\$[A-Z](?=\s|$)", "", command)  # options that the document names above
    command = re.sub(r"\$\{[^}]*\}|\$\w+|(?<=\s)N(?=\s|$)", "7", command)
    split = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", split[0]):
        split.pop(0)
    return split


def module_and_options(split: list[str]) -> tuple[str, list[str]]:
    """The module of a command, and the words that its own parser reads."""
    if split[0] == "lesion":
        if f"{split[1]}_{split[2] if len(split) > 2 else ''}" in MODULES:  # lesion build images
            split = [split[0], f"{split[1]}_{split[2]}", *split[3:]]
        return MODULES.get(split[1].replace("-", "_"), split[1]), split[2:]
    if split[:2] == ["python", "-m"]:
        return split[2], split[3:]
    place = next(number for number, word in enumerate(split) if word.endswith(".py"))
    return split[place].removesuffix(".py").replace("/", "."), split[place + 1 :] or ["--seed", "7"]


SHOWN = [
    pytest.param(command, id=f"{document}: {command[:70]}")
    for document in DOCUMENTS
    for command in dict.fromkeys(commands(document))
]


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_of_a_document_is_accepted(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        parsed = accept(self, args, namespace)
        if args == []:  # only for the defaults
            return parsed
        raise Accepted

    accept = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    module, options = module_and_options(words(command))
    if module == "trainers.leak_cost" and options[0].startswith("-"):  # it reads known options only
        accept = argparse.ArgumentParser.parse_known_args
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_args)
    elif module in ("trainers.cross_validate", "trainers.leak_cost"):  # further options are those of the script
        script = next(word for word in options if not word.startswith("-"))
        options.remove(script)
        module = f"trainers.train_{script}"
    monkeypatch.setattr(sys, "argv", [module, *options])
    with pytest.raises((Accepted, SystemExit)) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.type is Accepted, capsys.readouterr().err


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_in_the_text_exists(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for words_of_make in re.findall(r"^make ([\w ]+?)(?: +#.*)?$|`make (\w+)`", text, re.MULTILINE):
        assert set(" ".join(words_of_make).split()) <= set(targets)
    for name in re.findall(r"`lesion ([\w-]+)", text):
        assert name in {*MODULES, "env", "--help", "NAME"}, name
    for name in re.findall(r"`python -m ([\w.]+)", text):
        assert name.endswith(".NAME") or importlib.util.find_spec(name), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_imports_from_the_repository_is_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    for module, names in re.findall(
        r"^from ((?:datasets_scripts|model_cards|trainers)[\w.]*) import (.+)$", text, re.M
    ):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def anchors(file: Path) -> set[str]:
    """The fragments that a link to a Markdown file may have: its headings as the Hub and GitHub write them, and ids."""
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        before = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one) is not None for one in found)
        found.append(f"{slug}-{before}" if before else slug)
    return {*found, *re.findall(r"<[^>]*\b(?:id|name)=\"([^\"]+)\"", text)}


def broken_links(document: Path) -> list[str]:
    """The links of a document to files that are not there, or to headings that are not in them."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in (one or other for one, other in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", [*DOCUMENTS, *CARDS])
def test_what_a_document_links_is_there(document: str) -> None:
    assert broken_links(ROOT / document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text(
        "# A `b` c\n## A `b` c\n[1](#a-b-c) [2](#a-b-c-1) [3](x.md#a-b-c) [4](#nowhere) [5](y.md) ![6](z.png)"
    )
    assert broken_links(file) == ["#nowhere", "y.md", "z.png"]


def test_the_docstrings_are_rendered(tmp_path: Path) -> None:
    """``make docs``, for one module."""
    import pdoc

    pdoc.render.configure(docformat="google")
    pdoc.pdoc("datasets_scripts.rows", output_directory=tmp_path)
    page = (tmp_path / "datasets_scripts" / "rows.html").read_text("utf-8")
    assert "One image with the facts that its source states." in page
    assert "unique within a dataset" in page
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "-m pdoc" in line)
    assert line.endswith(
        "--docformat google --output-directory build/docs datasets_scripts hub_models model_cards trainers"
    )


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") <= 180
    assert len(text.encode()) <= 12 * 1024
