"""Model folders that somebody else wrote, or that a download damaged: the page says which file, and shows no class."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import hub_models
from datasets_scripts.command import what_file_is as what_commands_say
from hub_models.checks_lesion import what_file_is as what_models_say
from model_cards import card
from trainers.metrics import predictions

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4651630\n"


def change(folder: Path, name: str, **values: Any) -> None:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **values}))


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": {path.name: facts}}))
    content[-100] ^= 1
    path.write_bytes(content)


CAUSES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda f: (f / "model.safetensors").write_text(POINTER), "Git LFS pointer"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "cut short"),
    "flipped": (flip, "model.safetensors is not the file"),
    "null": (lambda f: (f / "config.json").write_text("null"), "null"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 100_000 + "]" * 100_000), "nested too deep"),
    "classes": (lambda f: change(f, "config.json", num_labels=10**9), "num_labels is 1000000000"),
    "file": (lambda f: change(f, "config.json", backbone_kwargs={"checkpoint_path": "x.pth"}), "checkpoint_path"),
    "hub": (lambda f: change(f, "config.json", backbone="hf-hub:org/backbone"), "hf-hub:org/backbone"),
    "processor": (lambda f: change(f, "preprocessor_config.json", size={"height": 10**9, "width": 8}), "height"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_page_names_the_file_and_what_is_wrong(cause: str, parts: Any, model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    spoiled, named = CAUSES[cause]
    spoiled(folder)
    with pytest.raises(parts.model_loading.ModelUnavailableError, match=named) as refused:
        parts.model_loading.load(parts.classifier.ModelSource(str(folder)))
    assert str(tmp_path) not in str(refused.value)


def test_no_class_is_shown_where_the_model_gives_no_numbers(parts: Any, model_folder: Path) -> None:
    classifier = parts.model_loading.load(parts.classifier.ModelSource(str(model_folder)))
    with torch.no_grad():
        for weight in classifier.model.parameters():
            weight.fill_(float("nan"))

    class Plain:
        """Any other classifier of transformers, and code from before the check."""

        config, device = classifier.model.config, classifier.model.device

        def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
            n = len(next(iter(inputs.values())))
            return SimpleNamespace(logits=torch.full((n, len(classifier.labels)), float("nan")))

    plain = parts.classifier.Classifier(classifier.source, Plain(), classifier.processor)
    image = Image.new("RGB", (64, 64), "grey")
    for model in (classifier, plain):
        with pytest.raises(parts.image_files.ImageUnusableError, match="no numbers"):
            parts.answering.classify(image, model)
        with pytest.raises(parts.image_files.ImageUnusableError, match="no numbers"):
            parts.answering.classify_many([image, image], model)


@pytest.mark.parametrize(
    "content",
    [b"", POINTER.encode(), b"<!DOCTYPE html>", b"\n <html>", b'{"error": "gone"}', b"Entry not found", b"\x93NUMPY"],
)
def test_page_commands_and_models_say_the_same_of_a_file(content: bytes, parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert what_commands_say(path) == what_models_say(path) == parts.model_files.what_file_is(path)


def definitions(path: Path) -> dict[str, str]:
    """Top-level names of a module -> their code without docstrings; the errors of both modules count as one."""
    found = {}
    for node in ast.parse(path.read_text("utf-8").replace("UserError", "ModelFileError")).body:
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner):
                inner.body = inner.body[1:]
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.dump(node)
    return found


def test_page_and_commands_check_the_same(repo_root: Path) -> None:
    commands = definitions(repo_root / "model_cards" / "model_files.py")
    page = definitions(repo_root / "spaces" / "lesion_demo" / "model_files.py")
    del commands["check_unchanged"]  # the page reads the manifest without the parser of the commands
    assert commands == {name: page.get(name) for name in commands}
    assert len(commands) > 15


def test_all_sum_the_same_groups(parts: Any) -> None:
    """Three folders import none of the others: each has its own copy."""
    assert hub_models.MALIGNANT_GROUPS == predictions.MALIGNANT_GROUPS == card.MALIGNANT_GROUPS
    assert hub_models.MALIGNANT_GROUPS == parts.classifier.MALIGNANT_GROUPS
