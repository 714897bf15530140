"""A release: the finished model again, without photographs, features and places of this machine."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from card_text import folder_card
from safetensors.torch import load_file

from datasets_scripts.command import UserError, run
from model_cards.build import build_card
from model_cards.verify import verify_folder
from trainers import release as command
from trainers.evaluation.explanation_table import explanations_file, read_table
from trainers.explaining import examples
from trainers.explaining.folder import measure_explanations
from trainers.explaining.measure import Options
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import load_splits
from trainers.model_folder.release import versions, without_places

REPLICATES = 50
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]


@pytest.fixture(scope="module")
def explained(trained: Path, phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model whose heat maps were measured, and whose report names places."""
    out = tmp_path_factory.mktemp("finished") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["measure_explanations", "model", "--dataset", "phantoms"])
        splits = load_splits(str(phantom_dataset), "grouped")
        measure_explanations(
            str(trained), splits, out, Options(images=4, steps=3, draws=2), replicates=REPLICATES, progress=False
        )
    report = read(out)
    report["provenance"]["command"] = "trainers/train_mobilenet.py --backbone_weights /far/weights/net.safetensors"
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    build_card(out)
    return out


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["release", *map(str, words), "--bootstrap_replicates", str(REPLICATES)])
    run(command.main)


def test_a_release_is_the_same_model_and_shows_nobody(
    explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESION_WEIGHTS_DIR", "/far/weights/")
    monkeypatch.setattr(examples, "phantom_examples", partial(examples.phantom_examples, per_class=3))
    before = {path: path.read_bytes() for path in explained.rglob("*") if path.is_file()}
    out = tmp_path / "released"
    call(monkeypatch, explained, out)
    assert {path: path.read_bytes() for path in explained.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["released"]
    assert verify_folder(out) == []
    ours, theirs = load_file(out / "model.safetensors"), load_file(explained / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    given, kept = (read_predictions(folder / "predictions_test.parquet") for folder in (out, explained))
    assert kept.features is not None
    assert given.features is None
    assert (given.logits == kept.logits).all()
    report, source = read(out), read(explained)
    for part in ("evaluation", "trust", "training", "test_reads"):
        assert report[part] == source[part], part
    assert report["explanations"]["overall"] == source["explanations"]["overall"]
    command_line = "trainers/train_mobilenet.py --backbone_weights $LESION_WEIGHTS_DIR/net.safetensors"
    assert report["provenance"]["command"] == command_line
    assert "/far/" not in folder_card(out)
    pages = report["explanations"]["examples"]
    assert pages == read_table(explanations_file(out, "test")).about["examples"]
    assert all("Drawn phantoms, none of them a photograph" in page["caption"] for page in pages)
    assert [path.name for path in (out / "examples").iterdir()] == [Path(page["file"]).name for page in pages]


def test_what_cannot_be_released_is_one_line(
    explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, full = tmp_path / "changed", tmp_path / "full"
    shutil.copytree(explained, changed)
    (changed / "config.json").write_text((changed / "config.json").read_text() + " ")
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    out = tmp_path / "out"
    for words, message in (
        ((tmp_path / "gone", out), "there is no folder"),
        ((changed, out), "config.json is not"),
        ((explained, full), "is not empty: choose another OUT"),
    ):
        with pytest.raises(SystemExit) as stopped:
            call(monkeypatch, *words)
        assert stopped.value.code == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]  # after the bars of loading
        assert line.startswith("error: ")
        assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "full"]


def test_places_of_this_machine_do_not_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path.parent / "archive"
    content = {"a": [f"--source {data}/ham", "../archive/ham", "data/ham10000"]}
    monkeypatch.setenv("LESION_DATA_DIR", str(data))
    cleaned = without_places(content, "it")
    assert cleaned == {"a": ["--source $LESION_DATA_DIR/ham", "$LESION_DATA_DIR/ham", "data/ham10000"]}
    with pytest.raises(UserError, match=r"it names a place of this machine .*outputs/x\): set LESION_DATA_DIR"):
        without_places({"a": f"--output_dir {tmp_path}/outputs/x"}, "it")


def test_versions_go_up_and_are_kept(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    first = versions(tmp_path, None, "1.0.0", "")
    assert first is not None
    assert (first[0]["version"], first[0]["changes"]) == ("1.0.0", "First version.")
    after = tmp_path / "after"
    after.mkdir()
    (after / "report.json").write_text(json.dumps({"versions": first}))
    second = versions(tmp_path, after, "1.10.0", "Trained\nlonger.")
    assert second is not None
    assert [row["version"] for row in second] == ["1.10.0", "1.0.0"]
    assert second[0]["changes"] == "Trained longer."
    assert versions(tmp_path, None, None, "") is None
    for version, changes, named in (
        ("1.0.0", "", "is not higher than 1.0.0"),
        ("0.9.9", "", "is not higher"),
        ("1.0", "", "no semantic version"),
        ("01.0.0", "", "no semantic version"),
        (None, "x", "give --version"),
    ):
        with pytest.raises(UserError, match=named):
            versions(tmp_path, after, version, changes)
