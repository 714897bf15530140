"""Images of further sources for the gate: read from folders and datasets, and never those of the test split."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import UserError
from trainers.metrics.predictions import NO_LABEL
from trainers.model_folder import gate_data
from trainers.model_folder.data import Splits, load_splits
from trainers.model_folder.folder import load
from trainers.model_folder.gate_data import gate_sets
from trainers.model_folder.predict import predict_split
from trainers.trust.options import TrustOptions


@pytest.fixture(scope="module")
def splits(phantom_dataset: Path) -> Splits:
    return load_splits(str(phantom_dataset), "grouped")


def image_of(splits: Splits, split: str, row: int) -> Image.Image:
    return Image.open(io.BytesIO(splits.splits[split].with_format(None)[row]["image"]["bytes"])).convert("RGB")


def test_a_folder_and_a_split_are_predicted_without_labels(
    trained: Path, splits: Splits, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, _ = load(str(trained))
    for row in range(3):
        image_of(splits, "validation", row).save(tmp_path / f"{row}.png")
    monkeypatch.setattr(gate_data, "MOST", 5)
    sources = [str(tmp_path), str(phantom_dataset)]
    found = gate_sets(model, processor, sources, splits, TrustOptions(seed=1), "validation")
    folder, table = found[tmp_path.name], found[phantom_dataset.name]
    expected = predict_split(model, processor, splits, "validation")
    assert (len(folder), len(table)) == (3, 5)
    assert set(folder.label) == set(table.label) == {NO_LABEL}
    assert folder.features == pytest.approx(expected.features[:3], abs=1e-4)
    rows = [expected.image_id.tolist().index(name) for name in table.image_id]
    assert rows == sorted(rows)
    assert table.logits == pytest.approx(expected.logits[rows], abs=1e-4)
    assert table.early.shape == (5, expected.early.shape[1])


def test_what_the_gate_cannot_be_fitted_on_is_named(
    trained: Path, splits: Splits, phantom_dataset: Path, tmp_path: Path
) -> None:
    model, processor, _ = load(str(trained))
    no_images = SimpleNamespace(input_names=["metadata"])
    (tmp_path / "empty").mkdir()
    again, name = tmp_path / "again", phantom_dataset.name
    again.mkdir()
    seen = image_of(splits, "test", 2)
    seen.save(again / "x.jpg", quality=95)
    for by, sources, split, says in (
        (no_images, [str(again)], "", "--gate_dataset was given, but this model has no image input"),
        (model, [str(tmp_path / "empty")], "", "empty' holds no image"),
        (model, [str(tmp_path / "none")], "", "--gate_dataset: the dataset folder"),
        (model, [str(phantom_dataset)], "fold9", "has no split 'fold9': it has train"),
        (
            model,
            [str(phantom_dataset)],
            "test",
            f"--gate_dataset '{name}' shares {len(splits.splits['test'])} image_id",
        ),
        (model, [str(again)], "", "'again' shares 1 images with the test split"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            gate_sets(by, processor, sources, splits, TrustOptions(), split)
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "empty" / "turned.png")
    with pytest.raises(UserError, match="shares 1 images"):
        gate_sets(model, processor, [str(tmp_path / "empty")], splits, TrustOptions())
    (tmp_path / "empty" / "turned.png").unlink()
    for folder in ("a", "b"):
        (tmp_path / folder / "ours").mkdir(parents=True)
        noise = np.random.default_rng(ord(folder)).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / folder / "ours" / "0.png")
    with pytest.raises(UserError, match="names 'ours' twice"):
        gate_sets(
            model, processor, [str(tmp_path / "a" / "ours"), str(tmp_path / "b" / "ours")], splits, TrustOptions()
        )
