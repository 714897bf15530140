"""The page's parts by themselves: reading LESION_MODELS, loading, answering, and text that cannot break the page."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio
import pytest
import torch
import yaml

PARTS = ("model_loading", "answering", "rendering", "desk")


class LogitsOnly:
    """A model that has logits and nothing else of ours."""

    def __init__(self, model: Any) -> None:
        self._model, self.config, self.device = model, model.config, model.device

    def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self._model(**inputs).logits)


@pytest.fixture(scope="module")
def parts(repo_root: Path) -> Iterator[SimpleNamespace]:
    """The page's modules, imported as the page imports them, and forgotten afterwards."""
    folder = str(repo_root / "spaces" / "lesion_demo")
    sys.path.insert(0, folder)
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in PARTS}
    yield SimpleNamespace(**modules)
    sys.path.remove(folder)
    for name in PARTS:
        sys.modules.pop(name)


def test_models_are_read_from_the_setting(parts: Any, tmp_path: Path) -> None:
    odd = tmp_path / "a@b"
    odd.mkdir()
    sources = parts.model_loading.parse_models(f" org/one@v1.0 ,org/two,, {odd},org/two")
    assert [(s.location, s.revision) for s in sources] == [("org/one", "v1.0"), ("org/two", None), (str(odd), None)]
    assert [s.title for s in sources] == ["one @ v1.0", "two", "a@b"]
    assert parts.model_loading.parse_models("") == []
    for wrong in ("org/one@", "@v1"):
        with pytest.raises(parts.model_loading.ModelSettingError, match=re.escape(repr(wrong))):
            parts.model_loading.parse_models(wrong)


def test_command_refuses_a_setting_it_cannot_read(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "spaces/lesion_demo/app.py"],
        cwd=repo_root,
        env={"LESION_MODELS": "org/one@", "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: LESION_MODELS has the entry 'org/one@'")


def test_models_that_cannot_be_loaded_say_why(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else the client tries for half a minute
    unknown, empty = tmp_path / "unknown", tmp_path / "empty"
    unknown.mkdir()
    empty.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    shelf = parts.model_loading.ModelShelf(
        parts.model_loading.parse_models(f"{unknown},{empty},{tmp_path}/gone,nobody/nothing")
    )
    for title in shelf.titles:
        with pytest.raises(parts.model_loading.ModelUnavailableError, match=f"The model {title} could not be loaded: "):
            shelf.get(title)
    desk = parts.desk.Desk(shelf)
    assert "could not be loaded" in desk.show({}, "unknown")
    assert desk.introduce("unknown") == ""
    assert desk.predict(None, "unknown") == {}


def test_same_names_are_told_apart(parts: Any, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "model").mkdir(parents=True)
    setting = f"{tmp_path}/a/model,{tmp_path}/b/model"
    titles = parts.model_loading.ModelShelf(parts.model_loading.parse_models(setting)).titles
    assert titles == ["model", f"{tmp_path}/b/model"]


def test_answer_is_the_models(parts: Any, model_folder: Path, photo: Path, expected: dict[str, Any]) -> None:
    classifier = parts.model_loading.load(parts.model_loading.ModelSource(str(model_folder)))
    answer = parts.answering.classify(photo, classifier)
    assert answer.pop("model") == model_folder.name
    assert answer["predicted"] == expected["predicted"]
    for key in ("probabilities", "p_malignant", "predictive_entropy"):
        assert answer[key] == pytest.approx(expected[key])
    assert set(answer) == set(expected)
    assert 0 < parts.answering.entropy_share(answer) <= 1
    # Any other classifier of transformers has logits only; the answer has the same keys and numbers.
    plain = parts.model_loading.Classifier(classifier.source, LogitsOnly(classifier.model), classifier.processor)
    from_logits = parts.answering.classify(photo, plain)
    assert from_logits.pop("model") == model_folder.name
    assert from_logits["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert from_logits["predictive_entropy"] == pytest.approx(expected["predictive_entropy"], abs=1e-6)
    assert from_logits["p_malignant"] == pytest.approx(expected["p_malignant"], abs=1e-6)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_unreadable_files_are_named(parts: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(parts.answering.ImageUnusableError, match="cannot be read as an image"):
        parts.answering.read_image(path)


def test_text_from_a_model_cannot_break_the_page(parts: Any) -> None:
    evil = '<img src=x onerror="alert(1)">'
    config = SimpleNamespace(
        id2label={0: evil, 1: "b"}, label_names={evil: evil}, label_groups={evil: evil}, image_size=None
    )
    source = parts.model_loading.ModelSource(evil)
    classifier = parts.model_loading.Classifier(source, SimpleNamespace(config=config), None)
    answer = {
        "predicted": evil,
        "probabilities": {evil: 0.75, "b": 0.25},
        "p_malignant": 1.0,
        "predictive_entropy": 0.5,
    }
    for html in (
        parts.rendering.answer_panel(answer, classifier),
        parts.rendering.model_facts(classifier),
        parts.rendering.message(evil),
    ):
        assert "<img" not in html
        assert "&lt;img" in html


def test_percentages_do_not_round_to_certainty(parts: Any) -> None:
    said = {p: parts.rendering.percent(p) for p in (0.0, 0.0004, 0.0312, 0.5, 0.9996, 1.0)}
    assert said == {
        0.0: "0.0 %", 0.0004: "&lt; 0.1 %", 0.0312: "3.1 %", 0.5: "50.0 %", 0.9996: "&gt; 99.9 %", 1.0: "100.0 %",
    }  # fmt: skip


def test_front_matter_is_what_the_hub_needs(repo_root: Path) -> None:
    folder = repo_root / "spaces" / "lesion_demo"
    head = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert head["sdk"] == "gradio"
    assert head["sdk_version"].split(".")[:2] == gradio.__version__.split(".")[:2]
    assert (folder / head["app_file"]).is_file()
    assert head["python_version"] == "3.11"
    assert head["models"]
    needed = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert {re.split(">=", line)[0] for line in needed} >= {"gradio", "torch", "transformers", "timm", "pillow"}
    assert all(re.fullmatch(r"[a-z_]+>=[0-9.]+", line) for line in needed)
