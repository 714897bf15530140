from __future__ import annotations

import errno
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from small_images import Rows, encoded, photograph, processor, rows_of

from datasets_scripts.command import UserError
from trainers.training import image_cache
from trainers.training.image_cache import DecodedImages, ImageCache, cached_images


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of([encoded(photograph(number, (40 + 4 * number, 48))) for number in range(4)])


def decoded(rows: Rows, short_side: int = 0, **more: Any) -> DecodedImages:
    return DecodedImages(rows, processor(**more), short_side)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_images_in_use_are_stored_as_the_processor_makes_them(mode: str, rows: Rows, tmp_path: Path) -> None:
    images = cached_images(decoded(rows, resize_mode=mode), str(tmp_path))
    assert isinstance(images, ImageCache)
    ours = images.decoded.processor
    for number in range(len(rows)):
        seen = ours(images=Image.open(io.BytesIO(rows[number]["image"]["bytes"])), return_tensors="np")["pixel_values"]
        mean, std = np.array(ours.image_mean), np.array(ours.image_std)
        assert np.abs((images[number] / 255 - mean) / std - np.moveaxis(seen[0], 0, -1)).max() < 1e-5


def test_large_originals_are_decoded_small_and_nearly_the_same() -> None:
    large = decoded(rows_of([encoded(photograph(7, (600, 400)), "JPEG", quality=92)]), short_side=40)
    whole = Image.open(io.BytesIO(large.source.images[0]["image"]["bytes"]))
    assert large[0].shape == (40, 60, 3)
    plain = np.asarray(whole.resize((60, 40), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(large[0] - plain).mean() < 1.0  # of 255
    # A step that works on the whole image gets the whole image.
    even = decoded(large.source.images.add_column("label", [0]), 40, do_colour_constancy=True)
    assert even[0].shape == (40, 60, 3)


def test_a_cache_is_found_again_and_is_of_these_images_and_settings_alone(rows: Rows, tmp_path: Path) -> None:
    first = cached_images(decoded(rows, 20), str(tmp_path))
    assert isinstance(first, ImageCache)
    written = (first.folder / "images.bin").stat().st_mtime_ns
    again = cached_images(decoded(rows, 20), str(tmp_path))
    assert (again.folder / "images.bin").stat().st_mtime_ns == written
    others = [
        decoded(rows, 24),
        decoded(rows, 20, do_colour_constancy=True),
        decoded(rows.select([1, 0, 2, 3]), 20),
        decoded(rows_of([encoded(photograph(9, (48, 48)))] * 4), 20),
    ]
    names = {first.folder.name, *(other.fingerprint() for other in others)}
    assert len(names) == 5
    # Mean and deviation act after what is stored.
    assert decoded(rows, 20, image_std=[0.5] * 3).fingerprint() == first.folder.name
    copy = pickle.loads(pickle.dumps(again))
    assert copy.memory is None
    assert np.array_equal(copy[2], first[2])


def test_files_of_the_disk_are_told_apart_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photograph(1, (40, 40))))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    rows = Rows.from_dict({"image": [{"bytes": None, "path": str(path)}], "label": [0]}, features=features)
    before = decoded(rows).fingerprint()
    assert decoded(rows).fingerprint() == before
    path.write_bytes(encoded(photograph(2, (40, 40))))
    assert decoded(rows).fingerprint() != before
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        decoded(rows).fingerprint()


def test_a_half_written_stale_or_foreign_folder_is_built_again(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = decoded(rows, 20)
    expected = [source[number].copy() for number in range(len(rows))]
    folder = cached_images(source, str(tmp_path)).folder
    other = cached_images(decoded(rows_of([encoded(photograph(9, (48, 48)))] * 4), 20), str(tmp_path)).folder
    images = folder / "images.bin"

    def cut() -> None:
        images.write_bytes(images.read_bytes()[:-1])

    def foreign() -> None:
        shutil.rmtree(folder)
        shutil.copytree(other, folder)

    def no_index() -> None:
        (folder / "index.npy").unlink()

    def other_index() -> None:
        shutil.copy(other / "index.npy", folder / "index.npy")

    def no_json() -> None:
        (folder / "cache.json").write_text("{")

    def killed() -> None:
        shutil.rmtree(folder)
        (tmp_path / f"{folder.name}.partial").mkdir()
        (tmp_path / f"{folder.name}.partial" / "images.bin").write_bytes(b"half")

    for damage in (cut, foreign, no_index, other_index, no_json, killed):
        damage()
        found = cached_images(source, str(tmp_path))
        assert isinstance(found, ImageCache), damage.__name__
        assert all(np.array_equal(found[number], image) for number, image in enumerate(expected)), damage.__name__
        assert not list(tmp_path.glob("*.partial"))
    # Of the right size, but with other pixels in it.
    data = bytearray(images.read_bytes())
    data[5] ^= 1
    images.write_bytes(data)
    capsys.readouterr()
    found = cached_images(source, str(tmp_path))
    assert all(np.array_equal(found[number], image) for number, image in enumerate(expected))
    assert folder.name in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_or_done_without(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="file") as error:
        cached_images(decoded(rows), str(tmp_path / "file"))
    assert "--image_cache" in str(error.value)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_cache.np, "save", full)
    with pytest.raises(UserError, match="No space left"):
        cached_images(decoded(rows), str(tmp_path / "full"))
    assert [path.name for path in (tmp_path / "full").iterdir() if not path.name.endswith(".lock")] == []
    # Nobody named the usual place: the run goes on without a cache, with the same pixels.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "usual")
    capsys.readouterr()
    assert isinstance(cached_images(decoded(rows), ""), DecodedImages)
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setattr(image_cache, "LEAST_FREE", 2**62)
    with pytest.raises(UserError, match="less than 1 GiB"):
        cached_images(decoded(rows), str(tmp_path / "nearly full"))
    assert isinstance(cached_images(decoded(rows), "none"), DecodedImages)


def test_a_damaged_image_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    whole = encoded(photograph(1, (64, 64)))
    damaged = rows_of([whole, whole[: len(whole) // 2]])
    with pytest.raises(UserError, match="image 1 of the dataset"):
        cached_images(decoded(damaged), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
