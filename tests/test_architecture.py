"""The house's import rules, held over the syntax trees."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("datasets_scripts", "hub_models", "model_cards", "trainers")
LEAVES = ("datasets_scripts", "hub_models", "model_cards")
# Folders of trainers/ on floors of their own; every other folder stands above them, and the commands on top.
FLOORS = {"metrics": 0, "trust": 1, "evaluation": 2, "model_folder": 3}
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


def test_no_file_or_folder_of_trainers_shadows_a_library(repo_root: Path) -> None:
    """``accelerate launch trainers/train_x.py`` puts ``trainers/`` first on the path."""
    names = {path.stem for path in (repo_root / "trainers").iterdir()}
    assert names.isdisjoint(LIBRARIES)


def trainers_imports(root: Path) -> dict[tuple[str, str], list[str]]:
    """(folder, imported folder) -> places, within ``trainers/``; a file directly in it is a command."""

    def folder(parts: tuple[str, ...]) -> str:
        return parts[1] if (root / "trainers" / parts[1]).is_dir() else "commands"

    found: dict[tuple[str, str], list[str]] = {}
    for path in sources(root, "trainers"):
        for line, module, level, _ in imported(path):
            if level == 0 and module.startswith("trainers."):
                pair = folder(path.relative_to(root).parts), folder(tuple(module.split(".")))
                found.setdefault(pair, []).append(f"{path.relative_to(root)}:{line} imports {module}")
    return found


def test_imports_in_trainers_go_down(repo_root: Path) -> None:
    wrong = []
    for (mine, other), places in trainers_imports(repo_root).items():
        if mine in FLOORS and mine != other and FLOORS.get(other, len(FLOORS)) >= FLOORS[mine]:
            wrong += places
    assert wrong == []


def test_nothing_imports_a_command(repo_root: Path) -> None:
    assert [
        place for (_, other), places in trainers_imports(repo_root).items() if other == "commands" for place in places
    ] == []


def test_no_two_folders_of_trainers_import_each_other(repo_root: Path) -> None:
    """Not even through a third one."""
    edges: dict[str, set[str]] = {}
    for mine, other in trainers_imports(repo_root):
        if mine != other:
            edges.setdefault(mine, set()).add(other)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(edges.get(start, ()))
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += edges.get(name, ())
        return seen

    assert edges["evaluation"] == {"metrics", "trust"}
    assert [name for name in edges if name in reached(name)] == []


def test_every_package_is_listed_and_spaces_is_not(repo_root: Path) -> None:
    import tomllib

    listed = set(tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        init.parent.relative_to(repo_root).as_posix().replace("/", ".")
        for folder in FOLDERS
        for init in (repo_root / folder).rglob("__init__.py")
    }
    assert listed == there


# Words of no standard meaning here, and what to write.
WORDS = {
    "anew": "again",
    "mend": "fix",
    "mended": "fixed",
    "judge": "evaluate",
    "judging": "evaluating",
    "strangers": "ood images, or other users",
    "ruined": "perturbed",
    "altered": "perturbed, or changed",
    "pictures": "images",
    "picture": "image",
}


def test_prose_and_names_use_standard_words(repo_root: Path) -> None:
    folders = [*FOLDERS, "spaces", "tests"]
    files = [
        path
        for folder in folders
        for kind in ("py", "md", "j2", "js")
        for path in (repo_root / folder).rglob(f"*.{kind}")
    ]
    files += [*repo_root.glob("*.md")]
    pattern = re.compile(rf"(?<![\w\"'])({'|'.join(WORDS)})(?![\w\"'])", re.IGNORECASE)
    wrong = []
    for path in sorted(files):
        name = path.relative_to(repo_root).as_posix()
        if "released" in path.parts or "golden" in path.parts or name == "tests/test_architecture.py":
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            wrong += [f"{name}:{number}: {word}: write {WORDS[word.lower()]}" for word in pattern.findall(line)]
    assert wrong == []
