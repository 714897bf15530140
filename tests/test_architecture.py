"""The house's import rules, held over the syntax trees."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("datasets_scripts", "hub_models", "model_cards", "trainers")
LEAVES = ("datasets_scripts", "hub_models", "model_cards")
SHIPPED_MAY_IMPORT = {"torch", "transformers", "timm", "numpy", "PIL", *sys.stdlib_module_names}
LIBRARIES = {
    "evaluate",
    "datasets",
    "accelerate",
    "torch",
    "timm",
    "gradio",
    "random",
    "copy",
    "types",
    "logging",
    "statistics",
}


def sources(root: Path, folder: str) -> Iterator[Path]:
    return (path for path in sorted((root / folder).rglob("*.py")) if "released" not in path.parts)


def imported(path: Path) -> Iterator[tuple[int, str, int, bool]]:
    """Yield (line, module, relative level, inside a try block)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for b in t.body for n in ast.walk(b)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "", node.level, id(node) in guarded


@pytest.mark.parametrize("folder", LEAVES)
def test_leaves_import_none_of_our_other_folders(repo_root: Path, folder: str) -> None:
    """The ground floor of the commands is for all of them, except for what is shipped."""
    others = set(FOLDERS) - {folder}
    allowed = set() if folder == "hub_models" else {"datasets_scripts.command", "datasets_scripts.output"}
    wrong = [
        f"{path.name}:{line} imports {module}"
        for path in sources(repo_root, folder)
        for line, module, level, _ in imported(path)
        if level == 0 and module.split(".")[0] in others and module not in allowed
    ]
    assert wrong == []


def test_the_ground_floor_imports_the_standard_library_alone(repo_root: Path) -> None:
    modules = {module.split(".")[0] for _, module, _, _ in imported(repo_root / "datasets_scripts" / "command.py")}
    assert modules <= set(sys.stdlib_module_names)


def test_the_space_imports_nothing_of_ours(repo_root: Path) -> None:
    found = list(sources(repo_root, "spaces/lesion_demo"))
    assert found
    modules = {module.split(".")[0] for path in found for _, module, _, _ in imported(path)}
    assert modules.isdisjoint({*FOLDERS, "spaces"})


def test_shipped_files_import_flat_siblings_and_three_libraries(repo_root: Path) -> None:
    wrong = []
    for path in (repo_root / "hub_models").glob("*.py"):
        for line, module, level, guarded in imported(path):
            if level and (level > 1 or not module or "." in module):
                wrong.append(f"{path.name}:{line} is not `from .name import Thing`")
            elif not level and module.split(".")[0] not in SHIPPED_MAY_IMPORT and not guarded:
                wrong.append(f"{path.name}:{line} makes every user install {module}")
    assert wrong == []


def test_no_trainer_file_shadows_a_library(repo_root: Path) -> None:
    assert {path.stem for path in (repo_root / "trainers").glob("*.py")}.isdisjoint(LIBRARIES)


def test_every_package_is_listed_and_spaces_is_not(repo_root: Path) -> None:
    import tomllib

    listed = set(tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        init.parent.relative_to(repo_root).as_posix().replace("/", ".")
        for folder in FOLDERS
        for init in (repo_root / folder).rglob("__init__.py")
    }
    assert listed == there
