"""The Dockerfile of the page, as far as it can be checked without Docker: what it copies, installs and sets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SPACES = Path(__file__).resolve().parents[2] / "spaces"
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"}


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, str]]:
    """(instruction, its words) of each line, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (SPACES / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def test_it_is_made_of_known_instructions(lines: list[tuple[str, str]]) -> None:
    assert {name for name, _ in lines} == INSTRUCTIONS
    assert lines[0] == ("FROM", "python:3.11-slim-bookworm")
    assert [words for name, words in lines if name == "USER"] == ["user"]
    assert lines[-1] == ("CMD", '["python", "app.py"]')


def test_what_it_copies_is_there_and_the_page_starts_from_it(lines: list[tuple[str, str]]) -> None:
    copied = [words.split()[-2] for name, words in lines if name == "COPY"]
    assert copied == ["lesion_demo/requirements.txt", "lesion_demo/"]
    assert all((SPACES / name).exists() for name in copied)
    assert (SPACES / "lesion_demo" / "app.py").is_file()
    ignored = (SPACES / ".dockerignore").read_text("utf-8").split()
    assert not any(name in ignored for name in ("lesion_demo", "wheels"))


def test_packages_come_from_the_folder_of_wheels_alone(lines: list[tuple[str, str]]) -> None:
    (install,) = [words for name, words in lines if name == "RUN" and "pip install" in words]
    assert "--mount=type=bind,source=wheels,target=/wheels" in install
    assert "--no-index --find-links /wheels --requirement requirements.txt" in install
    head = (SPACES / "Dockerfile").read_text("utf-8").split("FROM")[0]
    assert "--requirement spaces/lesion_demo/requirements.txt --dest spaces/wheels" in head
    assert "/spaces/wheels/" in (SPACES.parent / ".gitignore").read_text("utf-8").split()
    names = [Requirement(line).name for line in (SPACES / "lesion_demo" / "requirements.txt").read_text().splitlines()]
    assert {"gradio", "torch", "transformers", "timm", "safetensors"} <= set(names)


def test_what_it_sets_is_what_the_page_reads(lines: list[tuple[str, str]]) -> None:
    (values,) = [dict(word.split("=", 1) for word in words.split()) for name, words in lines if name == "ENV"]
    readme = (SPACES / "lesion_demo" / "README.md").read_text("utf-8")
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"):
        assert f"| `{name}` |" in readme
    assert ("EXPOSE", values["GRADIO_SERVER_PORT"]) in lines
    assert f":{values['GRADIO_SERVER_PORT']}/" in next(words for name, words in lines if name == "HEALTHCHECK")
    # The file system is read-only but for /tmp.
    assert all(value.startswith("/tmp/") for value in values.values() if value.startswith("/"))
