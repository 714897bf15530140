"""Tiny archives in the real layouts, made of drawn noise; and a cache of `datasets` that lies in a temporary folder."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

PER_CLASS = {"akiec": 12, "bcc": 12, "bkl": 14, "df": 12, "mel": 14, "nv": 40, "vasc": 12}
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
MIRROR_NAMES = {
    "akiec": "actinic_keratoses",
    "bcc": "basal_cell_carcinoma",
    "bkl": "benign_keratosis-like_lesions",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic_Nevi",
    "vasc": "vascular_lesions",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


def draw(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A cloudy image that no other seed draws alike."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, **options)
    return buffer.getvalue()


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def table(seed: int = 0) -> list[dict[str, str]]:
    """HAM10000-like metadata: in the order of classes, about every third image a second view of a lesion."""
    rng = random.Random(seed)
    records: list[dict[str, str]] = []
    for dx, count in PER_CLASS.items():
        for number in range(count):
            again = number % 3 == 2
            lesion = records[-1]["lesion_id"] if again else f"HAM_{len(records):07d}"
            records.append(
                {
                    "lesion_id": lesion,
                    "image_id": f"ISIC_{1000 + (len(records) * 37) % 997:07d}",
                    "dx": dx,
                    "dx_type": "histo",
                    "age": "" if number == 1 and dx in ("bkl", "nv") else f"{rng.randrange(0, 90, 5)}.0",
                    "sex": ("female", "male", "unknown")[number % 3],
                    "localization": "unknown" if number == 3 else "back",
                }
            )
    return records


def write_table(path: Path, records: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)


@pytest.fixture
def drawn() -> SimpleNamespace:
    """``draw(seed, size)``, ``jpeg(image)`` and ``png(image)``."""
    return SimpleNamespace(draw=draw, jpeg=jpeg, png=png)


@pytest.fixture
def save_table() -> Callable[..., None]:
    return write_table


@pytest.fixture
def ham_records() -> list[dict[str, str]]:
    return table()


def write_archive(folder: Path) -> Path:
    """HAM10000's public layout: images in two parts, the table, and masks for the first five images."""
    records = table()
    parts = [folder / "HAM10000_images_part_1", folder / "HAM10000_images_part_2"]
    masks = folder / "HAM10000_segmentations_lesion_tschandl"
    for made in (*parts, masks):
        made.mkdir(parents=True)
    for number, record in enumerate(records):
        image_id = record["image_id"]
        part = parts[number >= len(records) // 2]
        (part / f"{image_id}.jpg").write_bytes(jpeg(draw(int(image_id.removeprefix("ISIC_")))))
        if number < 5:
            Image.new("1", (40, 30), 1).save(masks / f"{image_id}_segmentation.png")
    write_table(folder / "HAM10000_metadata.csv", records)
    return folder


@pytest.fixture(scope="session")
def make_archive_in() -> Callable[[Path], Path]:
    return write_archive


@pytest.fixture
def make_archive(tmp_path: Path) -> Callable[..., Path]:
    """Write HAM10000's public layout into a folder of this test."""
    return lambda name="ham10000": write_archive(tmp_path / name)


@pytest.fixture
def archive(make_archive: Callable[..., Path]) -> Path:
    return make_archive()


@pytest.fixture
def make_mirror(tmp_path: Path) -> Callable[..., Path]:
    """Write Parquet as the most used mirror has it: written-out names, three splits, images that occur in several."""

    def make(records: list[dict[str, str]], name: str = "mirror") -> Path:
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        thirds = {"train": records, "validation": records[::3], "test": records[::7]}
        for split, part in thirds.items():
            columns = {
                "image": [
                    {"bytes": jpeg(draw(int(r["image_id"].removeprefix("ISIC_")))), "path": f"{r['image_id']}.jpg"}
                    for r in part
                ],
                **{c: [r[c] for r in part] for c in COLUMNS if c not in ("dx", "age")},
                "dx": [MIRROR_NAMES.get(r["dx"], r["dx"]) for r in part],
                "age": [float(r["age"]) if r["age"] else None for r in part],
            }
            features = datasets.Features(
                {
                    "image": datasets.Image(),
                    **{c: datasets.Value("string") for c in COLUMNS if c != "age"},
                    "age": datasets.Value("float64"),
                }
            )
            whole = datasets.Dataset.from_dict(columns, features=features)
            whole.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return folder.parent

    return make


@pytest.fixture
def acne(tmp_path: Path) -> Path:
    """DermNet's layout: 14 acne photos, one of them in train and in test under one name, and another class."""
    root = tmp_path / "dermnet"
    for split, numbers in (("train", range(10)), ("test", range(9, 13))):
        folder = root / split / "Acne and Rosacea Photos"
        folder.mkdir(parents=True)
        for number in numbers:
            seed = 5000 + number + (100 if split == "test" else 0)
            (folder / f"acne-{number:03d}.jpg").write_bytes(jpeg(draw(seed, (50, 50))))
    other = root / "train" / "Eczema Photos"
    other.mkdir()
    (other / "eczema-1.jpg").write_bytes(jpeg(draw(9000)))
    return root
