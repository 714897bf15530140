"""Rules for files that travel alone beside the weights: what they import, and what transformers reads out of them."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

FOLDER = Path(__file__).resolve().parents[2] / "hub_models"
SHIPPED = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "transformers", "timm", "numpy", "PIL", *sys.stdlib_module_names}


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def own_classes() -> set[str]:
    return {node.name for path in SHIPPED for node in nodes_of(path) if isinstance(node, ast.ClassDef)}


def test_there_are_shipped_files() -> None:
    assert {"modeling_lesion.py", "configuration_lesion.py", "preprocess_lesion.py"} <= {p.name for p in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_user_needs_no_further_package(path: Path) -> None:
    assert set(get_imports(path)) - ALLOWED == set()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_siblings_are_imported_as_transformers_finds_them(path: Path) -> None:
    """The text search of transformers must find exactly the relative imports of the syntax tree, each of one level."""
    relative = [node for node in nodes_of(path) if isinstance(node, ast.ImportFrom) and node.level]
    assert all(node.level == 1 and node.module and "." not in node.module for node in relative)
    modules = {node.module for node in relative}
    assert set(get_relative_imports(path)) == modules
    assert all((FOLDER / f"{module}.py").is_file() for module in modules)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_isinstance_on_our_own_classes(path: Path) -> None:
    """Loaded from the Hub, a class is not the one of the same name in another module."""
    calls = [
        node
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "issubclass")
    ]
    named = {name.id for call in calls for name in ast.walk(call.args[1]) if isinstance(name, ast.Name)}
    assert named & own_classes() == set()
