"""A version that was published once names the same files for ever; all of the suite is in one collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import LoopbackHub
from space_fixture import typed

from model_cards.build import build_card


def test_the_suite_is_one_collection(
    hub: LoopbackHub,
    model_folder: Path,
    dataset_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish = typed(hub, monkeypatch, capsys)
    for folder, repo_id in ((model_folder, "org/one"), (dataset_folder, "org/images"), (model_folder, "org/one")):
        code, shown, error = publish(folder, "--collection", "Lesion Suite", repo_id=repo_id)
        assert (code, error) == (0, "")
        assert f"in the collection {hub.endpoint}/collections/org/lesion-suite-" in shown
    [collection] = hub.storage.collections.values()
    assert [(item["id"], item["type"]) for item in collection["items"]] == [
        ("org/one", "model"),
        ("org/images", "dataset"),
    ]
    for title in ("", "x" * 61):
        code, _, error = publish(model_folder, "--collection", title, repo_id="org/two")
        assert (code, "1 to 60 characters" in error) == (2, True)
    assert ("models", "org/two") not in hub.storage.repos


def test_a_tag_is_set_once_and_never_moved(
    hub: LoopbackHub,
    model_folder: Path,
    report: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish = typed(hub, monkeypatch, capsys)
    code, shown, error = publish(model_folder, "--tag", "v1.0.0", repo_id="org/invented")
    assert (code, error) == (0, "")
    repo = hub.repo("org/invented")
    first = repo.refs["refs/tags/v1.0.0"]
    assert first == repo.refs["refs/heads/main"]
    assert f"tagged: v1.0.0 is {first[:12]}" in shown
    code, shown, _ = publish(model_folder, "--tag", "v1.0.0", repo_id="org/invented")
    assert (code, "tagged already" in shown, len(repo.history("main"))) == (0, True, 2)

    report["provenance"]["seed"] = 8
    report["model"]["version"] = "1.1.0"
    report["versions"] = [{"version": "1.1.0", "date": "2026-02-03", "suite": "0.1.0", "changes": "Another seed."}]
    (model_folder / "report.json").write_text(json.dumps(report))
    build_card(model_folder)
    for tag, named in (
        ("v1.0.0", "holds version 1.1.0 of the model: give v1.1.0"),
        ("1.1.0", "is no version"),
        ("v1.1", "is no version"),
    ):
        code, _, error = publish(model_folder, "--tag", tag, repo_id="org/invented")
        assert (code, named in error, len(error.strip().splitlines())) == (2, True, 1)
    code, _, error = publish(model_folder, "--tag", "v1.1.0", "--create-pr", repo_id="org/invented")
    assert (code, "--create-pr" in error) == (2, True)
    assert len(repo.history("main")) == 2

    assert publish(model_folder, "--tag", "v1.1.0", repo_id="org/invented")[0] == 0
    assert repo.refs["refs/tags/v1.0.0"] == first != repo.refs["refs/tags/v1.1.0"]
    assert "| 1.1.0 | 2026-02-03 | 0.1.0 | Another seed. |" in hub.content("org/invented", "REPORT.md").decode()

    del report["model"]["version"]
    (model_folder / "report.json").write_text(json.dumps(report))
    build_card(model_folder)
    code, _, error = publish(model_folder, "--tag", "v1.1.0", repo_id="org/invented")
    assert (code, "has v1.1.0 already, with other files" in error) == (2, True)
    assert len(repo.history("main")) == 3, "nothing was uploaded"
