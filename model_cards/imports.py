"""What Python files import, read from their syntax trees: nothing is run, nothing of it is imported here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datasets_scripts.command import UserError

# What the Hub installs into every Space of sdk gradio, beside what gradio itself requires
# (huggingface.co/docs/hub/spaces-dependencies).
OF_THE_IMAGE = frozenset({"datasets", "gradio", "huggingface-hub", "requests", "spaces"})


def parse(path: Path, name: str) -> ast.Module:
    """The syntax tree of a file; ``name`` is what an error calls it.

    Raises:
        UserError: with the line that is wrong.
    """
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{name} is no Python ({where}): fix it, or leave it out of the folder") from error


def third_party(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, top-level module) of every absolute import that is not of the standard library.

    An import in the body of a ``try`` is optional and left out.
    """
    guarded = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for b in t.body for n in ast.walk(b)}
    found = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, str(node.module).split(".")[0]))
    return sorted((line, top) for line, top in found if top not in sys.stdlib_module_names)


def siblings(tree: ast.Module) -> set[str]:
    """Modules beside the file that it imports by ``from .name import ...``."""
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {node.module.split(".")[0] for node in relative if node.module}


def texts(tree: ast.Module) -> set[str]:
    """Every string constant of a file, the parts of f-strings included."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def covered(module: str, provided: Iterable[str]) -> bool:
    """Whether one of the distributions provides a module.

    Args:
        module: a top-level module, ``PIL``.
        provided: distributions in canonical spelling, ``pillow``.
    """
    names = installed().get(module, [module])
    return not {canonicalize_name(name) for name in names}.isdisjoint(provided)


@lru_cache(maxsize=1)
def installed() -> dict[str, list[str]]:
    """Top-level module -> the distributions that bring it, of what is installed here: ``PIL`` -> ``pillow``."""
    return {module: list(names) for module, names in metadata.packages_distributions().items()}


@lru_cache(maxsize=1)
def gradio_image() -> frozenset[str]:
    """Distributions that every gradio Space has without naming them, in canonical spelling."""
    try:
        rows = [Requirement(row) for row in metadata.requires("gradio") or []]
    except metadata.PackageNotFoundError:
        rows = []
    own = {canonicalize_name(row.name) for row in rows if row.marker is None or row.marker.evaluate({"extra": ""})}
    return OF_THE_IMAGE | own
