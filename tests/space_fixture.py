"""A small Space and a model beside it for the tests of its deployment, and the command as somebody types it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi

from datasets_scripts.command import run
from model_cards.build import build_card
from model_cards.publish import main

Command = Callable[..., tuple[int, str, str]]
SPACE, MODEL = "org/page", "org/lesions"
FRONT = """\
title: A page
emoji: 🔎
colorFrom: gray
sdk: gradio
sdk_version: 6.31.0
python_version: "3.11"
app_file: app.py
models:
  - somebody/else
tags:
  - dermatology
"""
BODY = "\n# A page\n\nNot a medical device: ≤ 1 µm.\n"
APP = """\
import os
import gradio as gr
from PIL import Image
from shelf import shelf
try:
    import spaces
    import something_optional
except ImportError:
    pass
print(os.environ.get("LESION_MODELS"), os.environ.get("LESION_GALLERY"))
"""
FILES = {"README.md", "app.py", "shelf.py", "style.css", "requirements.txt", "figures/tokens.css"}


def write_space(folder: Path) -> Path:
    """A small Space, with the things in its folder that stay at home."""
    for name, text in {
        "README.md": f"---\n{FRONT}---\n{BODY}",
        "app.py": APP,
        "shelf.py": "import torch\nfrom transformers import AutoModel\nshelf = 1\n",
        "style.css": "a {}\n",
        "figures/tokens.css": "b {}\n",
        "requirements.txt": "# the page\ngradio>=6.31\npillow\ntorch>=2.11  # CPU\nTransformers[torch] >=5.17\n",
        ".env": "HF_TOKEN=x\n",
        ".git/config": "x",
        "__pycache__/app.pyc": "x",
        "tests/test_app.py": "x",
        "test_more.py": "x",
        "venv/pyvenv.cfg": "x",
        "venv/bin/python": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def with_code(model_folder: Path) -> Path:
    """The invented model with code beside it, as the released ones have."""
    (model_folder / "configuration_tiny.py").write_text("from transformers import PretrainedConfig\nTinyConfig = 1\n")
    (model_folder / "modeling_tiny.py").write_text("import torch\nfrom .configuration_tiny import TinyConfig\n")
    auto_map = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModelForImageClassification": "modeling_tiny.Tiny"}
    change_config(model_folder, auto_map=auto_map)
    (model_folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor"}))
    build_card(model_folder)
    return model_folder


def typed(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command as typed; it gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    # The client's own HF_ENDPOINT is read when it is imported.
    ours = lambda: HfApi(endpoint=hub.endpoint, token=os.environ["HF_TOKEN"] or False)  # noqa: E731
    monkeypatch.setattr("model_cards.publish.client", ours)

    def call(folder: Path, *words: str, repo_id: str = SPACE) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["publish", str(folder), "--repo-id", repo_id, *words])
        code = 0
        capsys.readouterr()
        try:
            run(main)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def add_gallery(api: HfApi, made_with: dict[str, str] | None) -> str:
    api.create_repo("org/cases", repo_type="dataset")
    files = {"gallery.json": json.dumps({"model": made_with}).encode(), "gallery.parquet": b"PAR1"}
    additions = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit("org/cases", additions, commit_message="cases", repo_type="dataset").oid
