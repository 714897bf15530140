from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from safetensors.numpy import save_file

from datasets_scripts.command import UserError
from model_cards.build import build_card
from model_cards.card import CARD_LAYOUT, MissingNumberError
from model_cards.manifest import write_manifest
from model_cards.publish import plan
from model_cards.verify import compare_lines, folder_type, verify_folder

ROOT = Path(__file__).resolve().parents[2]


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, "-m", *words], cwd=ROOT, env={**os.environ, **env})


def edit(folder: Path, old: str, new: str, name: str = "README.md") -> None:
    """Change a file of the card and, as a careful forger would, the manifest."""
    text = (folder / name).read_text("utf-8")
    assert text.count(old) >= 1
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    write_manifest(folder)


def test_a_built_folder_verifies(model_folder: Path) -> None:
    assert verify_folder(model_folder) == []
    assert list(model_folder.glob("*.partial")) == []
    listed = json.loads((model_folder / "manifest.json").read_text())["files"]
    assert {"README.md", "REPORT.md"} <= set(listed)
    assert "manifest.json" not in listed


def test_building_twice_gives_the_same_bytes(model_folder: Path) -> None:
    before = {path: path.read_bytes() for path in model_folder.rglob("*") if path.is_file()}
    build_card(model_folder)
    assert {path: path.read_bytes() for path in model_folder.rglob("*") if path.is_file()} == before


def test_a_missing_number_leaves_the_folder_as_it_was(model_folder: Path, report: dict[str, Any]) -> None:
    texts = [model_folder / name for name in ("README.md", "REPORT.md")]
    before = [path.read_bytes() for path in texts]
    del report["evaluation"]["test"]["calibration"]["after"]["ece"]
    (model_folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(MissingNumberError, match=r"report\.json: evaluation\.test\.calibration\.after\.ece is missing"):
        build_card(model_folder)
    assert [path.read_bytes() for path in texts] == before
    assert list(model_folder.glob("*.partial")) == []


def test_the_repository_of_the_examples_can_be_named_before_it_exists(model_folder: Path) -> None:
    built = command("model_cards.build", str(model_folder), "--repo-id", "org/lesions")
    assert (built.returncode, built.stderr) == (0, "")
    assert json.loads((model_folder / "report.json").read_text())["model"]["repo_id"] == "org/lesions"
    assert '"org/lesions"' in (model_folder / "README.md").read_text("utf-8")
    assert verify_folder(model_folder) == []
    before = {path: path.read_bytes() for path in model_folder.rglob("*") if path.is_file()}
    build_card(model_folder)
    assert {path: path.read_bytes() for path in model_folder.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match="'lesions' is not a repository"):
        build_card(model_folder, "lesions")
    assert {path: path.read_bytes() for path in model_folder.rglob("*") if path.is_file()} == before


def test_one_changed_byte_of_the_weights_is_named(model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[5000] ^= 1
    weights.write_bytes(content)
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert problems[0].startswith("model.safetensors was changed")


def test_missing_and_extra_files_are_named(model_folder: Path) -> None:
    (model_folder / "predictions_test.parquet").unlink()
    (model_folder / "notes.txt").write_text("hello")
    problems = verify_folder(model_folder)
    assert [problem.split()[0] for problem in problems] == ["notes.txt", "predictions_test.parquet"]


@pytest.mark.parametrize(
    ("name", "old", "new", "line_part"),
    [
        ("README.md", "| Accuracy | 0.816 (0.796–0.836)", "| Accuracy | 0.916 (0.796–0.836)", "the card says 0.916"),
        ("README.md", "value: 0.716", "value: 0.746", "the card says 0.746, report.json gives 0.716"),
        ("REPORT.md", "by 1.3137 before", "by 1.2137 before", "the card says 1.2137, report.json gives 1.3137"),
        ("REPORT.md", "| `mel` | 90 |", "| `mel` | 91 |", "the card says 91, report.json gives 90"),
    ],
)
def test_an_edited_number_is_named_with_its_line(
    model_folder: Path, name: str, old: str, new: str, line_part: str
) -> None:
    edit(model_folder, old, new, name)
    lines = (model_folder / name).read_text("utf-8").splitlines()
    where = next(number for number, line in enumerate(lines, 1) if new in line)
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} line {where}: ")
    assert line_part in problems[0]


def test_an_edited_word_is_named_too(model_folder: Path) -> None:
    edit(model_folder, "**Not a medical device.**", "**A medical device.**")
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert "reads '> **A medical device.**" in problems[0]


def test_a_missing_report_of_this_layout_is_named(model_folder: Path) -> None:
    (model_folder / "REPORT.md").unlink()
    write_manifest(model_folder)
    (problem,) = verify_folder(model_folder)
    assert problem.startswith("REPORT.md is missing: build it with python -m model_cards.build")


def test_a_removed_line_is_named(model_folder: Path) -> None:
    edit(model_folder, "| Balanced accuracy | 0.716 (0.696–0.736) | 0.696 (0.676–0.716) |\n", "")
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert "report.json gives '| Balanced accuracy |" in problems[0]


def test_an_older_layout_may_say_it_in_other_words_but_not_with_other_numbers(model_folder: Path) -> None:
    edit(model_folder, f"<!-- Card layout {CARD_LAYOUT}.", "<!-- Card layout 0.")
    edit(model_folder, "This is a single run", "It is one run")
    (model_folder / "REPORT.md").unlink()
    write_manifest(model_folder)
    assert verify_folder(model_folder) == []
    edit(model_folder, "| Accuracy | 0.816", "| Accuracy | 0.826")
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert "the card says 0.826, report.json gives 0.816" in problems[0]


def test_compare_lines_counts_from_one_and_finds_the_first_number() -> None:
    found, wanted = ["a", "n 1 of 2", "b"], ["a", "n 1 of 3", "b"]
    (problem,) = compare_lines("README.md", found, wanted)
    assert problem == "README.md line 2: the card says 2, report.json gives 3 (in 'n 1 of 2')"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "trust.temperature.value",
            1.0,
            "temperature.value is 1.0, report.json says trust.temperature.value is 1.31371",
        ),
        ("trust.conformal.qhat", [0.9] * 4, "trust.conformal.qhat is [0.9, 0.9, 0.9, 0.9], report.json says"),
        ("trust.bands.low.threshold", None, "trust.bands.low.threshold is None, report.json says"),
        ("trust.more", 1, "trust.more is 1, report.json says trust.more is None"),
        ("trust", {}, "trust.bands is None, report.json says trust.bands is {'low': {"),
        ("id2label", {"0": "bcc", "1": "df", "2": "nv", "3": "mel"}, "id2label is ['bcc', 'df', 'nv', 'mel']"),
        ("image_size", 128, "image_size is 128"),
        ("label_groups", {"bcc": "benign"}, "label_groups is {'bcc': 'benign'}"),
    ],
)
def test_a_config_that_disagrees_with_the_report_is_named(
    model_folder: Path, key: str, value: Any, message: str
) -> None:
    path = model_folder / "config.json"
    config = json.loads(path.read_text())
    *parents, last = key.split(".")
    section = config
    for name in parents:
        section = section[name]
    section[last] = value
    path.write_text(json.dumps(config))
    write_manifest(model_folder)
    problems = verify_folder(model_folder)
    assert len(problems) == 1
    assert message in problems[0]
    assert len(problems[0]) < 400


@pytest.fixture
def cross_validation(tmp_path: Path, model_folder: Path) -> Path:
    """Two folds and what ``trainers.cross_validate`` writes beside them."""
    folder = tmp_path / "folds"
    for name in ("fold0", "fold1"):
        shutil.copytree(model_folder, folder / name)
    report = json.loads((model_folder / "report.json").read_text())
    pooled = {
        "schema_version": 1,
        "kind": "cross_validation",
        "model": {name: value for name, value in report["model"].items() if name not in ("initialised_from", "notes")},
        "provenance": report["provenance"],
        "folds": [{"name": name, "n": 70, "metrics": {}} for name in ("fold0", "fold1")],
        "trust": {"temperature": {"value": 1.0, "method": "each fold's own"}},
        "evaluation": {"test": report["evaluation"]["test"]},
        "figures": [],
    }
    (folder / "report.json").write_text(json.dumps(pooled))
    (folder / "README.md").write_text("# Invented MobileNetV2: 2 folds\n")
    write_manifest(folder)
    return folder


def test_a_cross_validation_is_compared_with_its_manifest_and_its_folds_with_their_reports(
    cross_validation: Path,
) -> None:
    assert verify_folder(cross_validation) == []
    (cross_validation / "fold1" / "model.safetensors").write_bytes(b"x")
    problems = verify_folder(cross_validation)
    assert len(problems) == 1, "reported once, though two manifests list it"
    assert problems[0].startswith("fold1/model.safetensors was changed")
    edit(cross_validation / "fold0", "| Accuracy | 0.816", "| Accuracy | 0.916")
    write_manifest(cross_validation)
    problems = verify_folder(cross_validation)
    assert [problem.split(":")[0] for problem in problems] == ["fold0", "fold1"]
    assert "the card says 0.916, report.json gives 0.816" in problems[0]
    assert "model.safetensors was changed" in problems[1]


def test_a_fold_that_is_gone_or_named_outside_the_folder_is_named(cross_validation: Path) -> None:
    shutil.rmtree(cross_validation / "fold1")
    write_manifest(cross_validation)
    (problem,) = verify_folder(cross_validation)
    assert problem.startswith("fold1: ")
    assert "is not a folder" in problem
    report = json.loads((cross_validation / "report.json").read_text())
    report["folds"] = [{"name": "../../invented-mobilenet"}]
    (cross_validation / "report.json").write_text(json.dumps(report))
    write_manifest(cross_validation)
    (problem,) = verify_folder(cross_validation)
    assert problem.startswith("invented-mobilenet: ")


def test_only_one_model_gets_a_card_and_a_repository(cross_validation: Path, model_folder: Path) -> None:
    with pytest.raises(UserError, match="holds a cross validation, not one model"):
        build_card(cross_validation)
    with pytest.raises(UserError, match=r"holds a cross validation, and a repository holds one model"):
        plan(cross_validation, "org/folds")
    assert plan(cross_validation / "fold0", "org/fold0").repo_type == "model"
    report = json.loads((model_folder / "report.json").read_text())
    (model_folder / "report.json").write_text(json.dumps({**report, "scored": {"images": 3}}))
    with pytest.raises(UserError, match="holds a scoring, not one model"):
        build_card(model_folder)
    with pytest.raises(UserError, match="holds a model's answers to some images"):
        verify_folder(model_folder)


def test_a_dataset_folder_is_compared_with_its_manifest(dataset_folder: Path) -> None:
    assert folder_type(dataset_folder) == "dataset"
    assert verify_folder(dataset_folder) == []
    (dataset_folder / "data" / "train-1.parquet").write_bytes(b"")
    assert [problem.split()[0] for problem in verify_folder(dataset_folder)] == ["data/train-1.parquet"]


def test_other_folders_are_refused(tmp_path: Path, dataset_folder: Path) -> None:
    with pytest.raises(UserError, match=r"neither report\.json"):
        folder_type(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        folder_type(tmp_path / "absent")
    with pytest.raises(UserError, match="is a dataset folder"):
        build_card(dataset_folder)


def test_the_commands_speak_in_one_line_and_exit_codes(model_folder: Path, tmp_path: Path) -> None:
    built = command("model_cards.build", str(model_folder))
    assert (built.returncode, built.stderr) == (0, "")
    fine = command("model_cards.verify", str(model_folder))
    assert (fine.returncode, fine.stderr) == (0, "")
    (model_folder / "model.safetensors").write_bytes(b"x")
    changed = command("model_cards.verify", str(model_folder))
    assert changed.returncode == 2
    assert changed.stderr.startswith("error: model.safetensors was changed")
    assert len(changed.stderr.splitlines()) == 1
    absent = command("model_cards.build", str(tmp_path / "nowhere"))
    assert (absent.returncode, len(absent.stderr.splitlines())) == (2, 1)
    assert "has no report.json" in absent.stderr
    offline = command("model_cards.verify", "org/absent", HF_HUB_OFFLINE="1")
    assert (offline.returncode, len(offline.stderr.splitlines())) == (2, 1)
    assert "org/absent is no folder here" in offline.stderr
    wrong = command("model_cards.verify", "a/b/c")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "give ORG/NAME" in wrong.stderr


def spoil_weights(folder: Path) -> None:
    save_file({"head.bias": np.array([0.0, np.nan], dtype=np.float32)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_weights, "'head.bias' holds NaN"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"), "LFS"),
        (lambda f: (f / "config.json").write_text("null"), "config.json: it holds null"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "nested too deeply"),
        (lambda f: (f / "config.json").write_text('{"backbone": "hf-hub:org/x"}'), "backbone is 'hf-hub:org/x'"),
        (lambda f: (f / "config.json").write_text('{"image_size": 1000000000}'), "image_size is 1000000000"),
        (
            lambda f: (f / "preprocessor_config.json").write_text('{"size": {"height": 1e9}}'),
            "size.height is 1000000000",
        ),
    ],
)
def test_a_folder_that_no_model_follows_from_does_not_verify(model_folder: Path, spoil: Any, named: str) -> None:
    spoil(model_folder)
    write_manifest(model_folder)
    assert any(named in problem for problem in verify_folder(model_folder))


@pytest.mark.parametrize("content", ["null", "[" * 100_000, '{"a": NaN}', "<html>", ""])
@pytest.mark.parametrize("name", ["report.json", "manifest.json"])
def test_a_report_or_manifest_that_is_none_is_one_line(model_folder: Path, name: str, content: str) -> None:
    (model_folder / name).write_text(content)
    with pytest.raises(UserError, match=name) as refused:
        verify_folder(model_folder)
    assert len(str(refused.value)) < 500
