"""What pip is told of this project: the packages, their files, and the libraries that they import."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from hub_models import LEAST_TRANSFORMERS, SUITE_VERSION
from hub_models.checks_lesion import TransformersVersionError, check_transformers

FOLDERS = ("datasets_scripts", "hub_models", "model_cards", "trainers")
# What of these folders is for readers of the checkout; `.ci/check_wheel` builds the wheel and looks into it.
NOT_PACKAGED = {"figures", "notebooks", "results", "released", "__pycache__"}

# Libraries that pip knows by another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "markdown_it": "markdown-it-py",
    "pillow_heif": "pillow-heif",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@pytest.fixture(scope="module")
def project(repo_root: Path) -> dict[str, Any]:
    return tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_folder_with_code_is_a_package(repo_root: Path, project: dict[str, Any]) -> None:
    found = {
        ".".join(path.parent.relative_to(repo_root).parts)
        for folder in FOLDERS
        for path in (repo_root / folder).rglob("*.py")
        if not {"released", "modules", "jobs"} & set(path.parts)
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_every_file_that_the_code_reads_is_packaged(repo_root: Path, project: dict[str, Any]) -> None:
    packaged: set[Path] = set()
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            matched = set((repo_root / package).glob(pattern))
            assert matched, f"{package}/{pattern} matches nothing"
            packaged |= matched
    there = {
        path
        for folder in FOLDERS
        for path in (repo_root / folder).rglob("*")
        if path.is_file()
        and (path.suffix != ".py" or "modules" in path.parts)
        and path.name != "README.md"
        and not NOT_PACKAGED & set(path.relative_to(repo_root).parts)
    }
    assert packaged == there


def imports(node: ast.AST, late: bool = False) -> Iterator[tuple[int, str, bool]]:
    """(line, library, whether it is imported in a function or a try) of every import below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name.split(".")[0], late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            if not child.level and child.module:
                yield child.lineno, child.module.split(".")[0], late
        elif isinstance(child, ast.stmt):
            yield from imports(child, late or isinstance(child, (ast.Try, ast.FunctionDef)))


def test_every_imported_library_is_a_dependency(repo_root: Path, project: dict[str, Any]) -> None:
    """Otherwise a fresh environment lacks it, which a test in this environment would not show."""
    needed = {name_of(text) for text in project["project"]["dependencies"]}
    extras = project["project"]["optional-dependencies"]
    optional = {name_of(text) for extra, texts in extras.items() if extra not in ("test", "dev") for text in texts}
    wrong = []
    for path in (path for folder in FOLDERS for path in sorted((repo_root / folder).rglob("*.py"))):
        if "released" in path.parts:
            continue
        for line, library, late in imports(ast.parse(path.read_text(encoding="utf-8"))):
            known = library in sys.stdlib_module_names or library in FOLDERS
            if not known and name_of(DISTRIBUTIONS.get(library, library)) not in needed | (optional if late else set()):
                wrong.append(f"{path.relative_to(repo_root)}:{line} imports {library}")
    assert wrong == []


def test_the_extras_that_messages_name_exist(repo_root: Path, project: dict[str, Any]) -> None:
    named = set()
    for folder in FOLDERS:
        for path in (repo_root / folder).rglob("*.py"):
            named |= set(re.findall(r"lesion-suite\[(\w+)\]", path.read_text(encoding="utf-8")))
    assert named
    assert named <= set(project["project"]["optional-dependencies"])
    # What an extra brings is also tested.
    extras = project["project"]["optional-dependencies"]
    tested = {name_of(text) for text in extras["test"]}
    assert {name_of(text) for extra in ("heic", "hdf5", "similar") for text in extras[extra]} <= tested


def test_the_shipped_version_is_that_of_the_package(project: dict[str, Any]) -> None:
    assert project["project"]["version"] == SUITE_VERSION
    least = next(text for text in project["project"]["dependencies"] if text.startswith("transformers"))
    # The suite needs huggingface_hub 2, which 5.17 refuses; a model alone does not.
    assert Version(least.removeprefix("transformers>=")).release[:2] >= LEAST_TRANSFORMERS


def test_an_older_transformers_is_refused_before_anything_else_is_imported(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in ("5.17.0", "5.23.1", "6.0.0.dev0"):
        check_transformers(found)
    for found in ("4.57.1", "5.0.0", "5.12.0rc1"):
        with pytest.raises(TransformersVersionError, match=f"needs transformers 5.17 or newer, {re.escape(found)} is"):
            check_transformers(found)
    # The file that AutoConfig and AutoImageProcessor load first says it when it is imported.
    monkeypatch.setattr("transformers.__version__", "5.12.0")
    with pytest.raises(ImportError, match="pip install -U transformers"):
        runpy.run_path(str(repo_root / "hub_models" / "checks_lesion.py"))
    for name in ("configuration_lesion", "configuration_autoencoder", "image_processing_pixels"):
        text = (repo_root / "hub_models" / f"{name}.py").read_text(encoding="utf-8")
        assert 0 < text.index("\nfrom .checks_lesion import") < text.index("\nfrom transformers")
