"""The sheet of phantoms: what is drawn on it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.phantom import PHANTOM_LABELS, draw
from trainers.autoencoding import sheet


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["sheet", *map(str, words)])
    sheet.main()


@pytest.mark.usefixtures("painted")
def test_a_sheet_shows_every_class_through_every_model(
    trained_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    call(monkeypatch, trained_autoencoder, "--out", one)
    call(monkeypatch, trained_autoencoder, trained_autoencoder, "--out", two)
    call(monkeypatch, trained_autoencoder, "--out", tmp_path / "new" / "few.png", "--classes", "mel", "nv")
    assert Image.open(tmp_path / "new" / "few.png").width < Image.open(one).width / 3
    with pytest.raises(SystemExit):
        call(monkeypatch, trained_autoencoder, "--out", tmp_path / "no.png", "--classes", "melanoma")
    widths, heights = zip(*(Image.open(path).size for path in (one, two)), strict=True)
    assert widths[0] == widths[1] > 100 * len(PHANTOM_LABELS)
    assert heights[1] > 1.3 * heights[0]
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(UserError, match="exists already"):
        call(monkeypatch, trained_autoencoder, "--out", one)


def test_what_stands_on_it_is_what_the_model_draws(trained_autoencoder: Path) -> None:
    _, model, processor = sheet.load(trained_autoencoder)
    images = [draw("mel", 0).image, draw("nv", 0).image]
    seen, drawn, quality = sheet.redraw(model, processor, images)
    small = np.asarray(images[1].resize((32, 32), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(seen[1], small, atol=1e-6)
    expected = -10 * np.log10(np.mean((drawn[1] - seen[1]) ** 2))
    assert quality[1] == pytest.approx(expected, abs=1e-3)


def test_a_folder_without_an_autoencoder_is_one_line(
    tmp_path: Path, trained_autoencoder: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        call(monkeypatch, tmp_path, "--out", tmp_path / "x.png")
    with pytest.raises(UserError, match="--seed -1"):
        call(monkeypatch, trained_autoencoder, "--out", tmp_path / "x.png", "--seed", -1)
    classifier = repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"
    with pytest.raises(UserError, match=r"cannot be loaded|give the folder of a trained autoencoder"):
        call(monkeypatch, classifier, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
