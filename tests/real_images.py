"""The real images behind the ids of a released model's predictions, as its dataset holds them."""

from __future__ import annotations

from pathlib import Path

from datasets_scripts.images import stretched_squares

# The releases saw a copy of ISIC 2017 that was squeezed to squares, built with `--unsqueeze 4:3`.
SHAPE = (4, 3)


def of_ham10000(data_dir: Path) -> dict[str, Path]:
    """Image id -> file of HAM10000."""
    return {path.stem: path.absolute() for path in (data_dir / "ham10000").glob("HAM10000_images_part_*/*.jpg")}


def real_image(data_dir: Path, image_id: str, folder: Path) -> Path:
    """The file of an image of HAM10000 or ISIC 2017; one that had to be stretched is written into ``folder``."""
    for path in (data_dir / "ham10000").glob(f"HAM10000_images_part_*/{image_id}.jpg"):
        return path.absolute()
    (squeezed,) = (data_dir / "isic2017").glob(f"ISIC-2017_*_Data/{image_id}.jpg")
    stretched = folder / f"{image_id}.jpg"
    stretched.write_bytes(stretched_squares(squeezed.read_bytes, SHAPE)())
    return stretched
