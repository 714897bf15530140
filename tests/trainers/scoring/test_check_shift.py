"""check_shift as a command: one sentence, one image of a lesion, files whole, bad input in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import run as run_command
from trainers import check_shift
from trainers.scoring.shift import Drawn

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["check_shift", *map(str, words)])
        code = 0
        try:
            run_command(check_shift.main)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of nothing like a lesion, two of each patient, one of them broken; a table of the patients."""
    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = np.repeat(rng.integers(0, 256, (8, 1, 3), dtype=np.uint8), 5, axis=0).repeat(44, axis=1)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "29.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    lines = [f"{number:02d},P{number // 2}" for number in range(30)]
    (folder / "patients.csv").write_text("\n".join(["image,patient", *lines]) + "\n")
    return folder


def test_a_shift_is_one_sentence_and_two_files(trained: Path, stripes: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    table = ("--metadata", stripes / "patients.csv", "--group_column", "patient")
    code, shown, _ = call(trained, "--images", stripes, *table, "--batch_size", 8, "--output_dir", out)
    result = json.loads((out / "shift.json").read_text())
    assert (code, shown.splitlines()[0]) == (0, result["sentence"])
    assert sorted(path.name for path in out.iterdir()) == ["shift.json", "shift.png"]
    assert result["shifted"]
    assert {name: result["images"][name] for name in ("listed", "unreadable", "groups")} == {
        **{"listed": 30, "unreadable": 1, "groups": 15},
    }
    assert (result["calibration"]["split"], result["calibration"]["half"]) == ("calibration", "second")
    code, _, error = call(trained, "--images", stripes, "--output_dir", out)
    assert (code, "is not empty" in error or "holds" in error) == (2, True)


def test_the_models_own_kind_of_images_is_not_suspected(
    trained: Path, phantom_dataset: Path, tmp_path: Path, call: Call
) -> None:
    code, shown, _ = call(trained, "--dataset", phantom_dataset, "--output_dir", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "shift.json").read_text())
    assert code == 0
    assert shown.startswith(f"No shift was found in {result['n']} images; this does not prove there is none.\n")
    assert result["images"]["group_column"] == "group_id"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "STRIPES", "--group_column", "patient"), "--group_column 'patient' is a column of --metadata"),
        (("--images", "STRIPES", "--dataset", "STRIPES"), "give --images DIR, or --dataset"),
        (("--images", "EMPTY"), "holds no image"),
        (("--images", "STRIPES", "--metadata", "TABLE", "--group_column", "lesion"), "'lesion' is no column of"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    words: tuple[str, ...], message: str, trained: Path, stripes: Path, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"STRIPES": stripes, "EMPTY": tmp_path / "empty", "TABLE": stripes / "patients.csv"}
    code, shown, error = call(trained, *(places.get(word, word) for word in words), "--output_dir", tmp_path / "out")
    assert (code, shown, len(error.splitlines())) == (2, "", 1)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_model_without_trust_or_stored_predictions_is_refused(
    ours: Path, peer: Path, stripes: Path, tmp_path: Path, call: Call
) -> None:
    for model, message in ((ours, "holds no predictions_calibration.parquet"), (peer, "is not of this suite")):
        code, _, error = call(model, "--images", stripes, "--output_dir", tmp_path / "out")
        assert (code, len(error.splitlines())) == (2, 1)
        assert message in error


def test_what_is_held_grows_with_the_lesions_alone_and_each_image_has_the_same_chance() -> None:
    rng, taken = np.random.default_rng(0), np.zeros(4)
    for _ in range(2000):
        drawn = Drawn()
        for number in range(4):
            drawn.add("lesion", 0.0, float(number), 0, rng)
        taken[int(drawn.answers().largest[0])] += 1
    assert taken / 2000 == pytest.approx(0.25, abs=0.04)
    many = Drawn()
    for number in range(100_000):
        many.add(f"L{number % 50}", float("nan"), 0.5, 1, rng)
    assert (len(many.rows), sum(row[0] for row in many.rows.values())) == (50, 100_000)
    assert many.answers().gate is None
