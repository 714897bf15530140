"""What the page says about a model's folder: changed files, the card, figures; and the cases of a gallery."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_cards.manifest import check_manifest


def test_check_agrees_with_the_suites_own(parts: Any, trusted: Any, tmp_path: Path) -> None:
    check, folder = parts.model_folder.check, tmp_path / "copy"
    shutil.copytree(trusted.folder, folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    found = check(folder)
    assert (found.verdict, found.problems) == ("matches", [])
    assert found.files == len(json.loads((folder / "manifest.json").read_text())["files"])
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "extra.py").write_text("x")
    (folder / "figures" / "gate_test.png").unlink()
    found = check(folder)
    assert found.verdict == "differs"
    assert sorted(found.problems) == [
        "extra.py is not listed", "figures/gate_test.png is missing", "model.safetensors was changed",
    ]  # fmt: skip
    assert len(found.problems) == len(check_manifest(folder))
    (folder / "manifest.json").write_text('{"schema_version": 9, "files": {}}')
    assert check(folder).verdict == "unknown"
    (folder / "manifest.json").unlink()
    assert check(folder).problems == ["There is no manifest.json beside the weights."]


def test_a_manifest_cannot_lead_out_of_its_folder(parts: Any, tmp_path: Path) -> None:
    listed = {"../secret": {"sha256": "0", "size": 1}, "/etc/passwd": {"sha256": "0", "size": 1}}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": listed}))
    assert parts.model_folder.check(tmp_path).problems == [
        "../secret is outside the folder", "/etc/passwd is outside the folder",
    ]  # fmt: skip


def test_the_card_shows_its_own_images_and_loads_nothing_else(parts: Any, trusted: Any) -> None:
    text = parts.model_folder.card(trusted.folder)
    assert text.startswith("<h1>A card of its own</h1>")
    assert "license:" not in text
    assert '<img src="data:image/png;base64,iVBOR' in text
    assert "example.com" not in text
    assert "from elsewhere: image not shown" in text
    assert "See its “limits”." in text, "headings have no ids on the page, so links to them are plain words"
    assert [caption for caption, _ in parts.model_folder.figures(trusted.folder)] == ["Gate, test split"]
    for link in ("../x.png", "/etc/x.png", "https://example.com/x.png", "config.json", "a\0.png"):
        assert parts.model_folder.image_uri(trusted.folder, link) is None


def test_nearest_cases(parts: Any, gallery: Any, trusted: Any) -> None:
    folder, classifier, rows = gallery
    known = parts.similar.Gallery(str(folder))
    assert known.fits(classifier) is None
    image = parts.image_files.read_image(trusted.images["low"])
    unit = parts.similar.features_of(image, classifier, {})
    assert float(np.linalg.norm(unit)) == pytest.approx(1.0, abs=1e-6)
    cases = known.nearest(image, classifier, {})
    distance = [1 - float(row["features"].astype(np.float32) @ unit) for row in rows]
    assert distance[0] == pytest.approx(0, abs=1e-3), "the query itself lies in the gallery, and is not shown"
    best: dict[str, float] = {}
    for row, value in zip(rows, distance, strict=True):
        best[row["lesion_id"]] = min(value, best.get(row["lesion_id"], 9.0))
    wanted = sorted(value for lesion, value in best.items() if lesion != "L0")[:8]
    assert [case.distance for case in cases] == pytest.approx(wanted, abs=1e-5)
    assert {(case.license, case.attribution) for case in cases} == {("CC0", "drawn")}
    assert {case.long_name for case in cases} <= {"Keratosis", "Melanoma"}


def test_a_gallery_of_another_model_is_not_used(parts: Any, gallery: Any, tmp_path: Path) -> None:
    folder, classifier, _ = gallery
    shutil.copytree(folder, tmp_path / "other")
    facts = json.loads((folder / "gallery.json").read_text())
    facts["model"]["name"] = "somebody-elses"
    (tmp_path / "other" / "gallery.json").write_text(json.dumps(facts))
    other = parts.similar.Gallery(str(tmp_path / "other"))
    assert other.title_among([classifier.source]) is None
    assert "made with somebody-elses" in other.fits(classifier)
    facts["format_version"] = 2
    (tmp_path / "other" / "gallery.json").write_text(json.dumps(facts))
    with pytest.raises(parts.similar.GalleryError, match="another layout"):
        parts.similar.Gallery(str(tmp_path / "other"))
    with pytest.raises(parts.similar.GalleryError, match=r"LESION_GALLERY is '.*', which holds no gallery"):
        parts.similar.Gallery(str(tmp_path))
