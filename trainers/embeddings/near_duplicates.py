"""Which images are the same: an image in a few bytes, and the comparison of one image with many.

The rules are those of ``datasets_scripts.duplicates``, by which datasets are built: equal decoded pixels, or thumbnails
that agree as a whole and in their fine detail, also mirrored or turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.duplicates import near_pairs, near_to
from datasets_scripts.images import ImageError, scan
from datasets_scripts.rows import Row
from trainers.embeddings.cache import cached, description_of
from trainers.embeddings.cases import SHOW_PROGRESS_FROM, Cases

HASH_SIDE = 8


@dataclass(frozen=True)
class Looks:
    """What N images look like.

    Attributes:
        pixels_sha256: (N,) str, of the decoded pixels.
        thumbs: (N, 32, 32) uint8 grey.
    """

    pixels_sha256: np.ndarray
    thumbs: np.ndarray


def look(data: bytes, name: str) -> Looks:
    """The look of one image file, N = 1.

    Raises:
        ImageError: it cannot be read; the message names it.
    """
    seen = scan(Row(image_id=name, label="", read=lambda: data, lesion_id=name))
    if isinstance(seen, ImageError):
        raise seen
    return Looks(np.array([seen.pixels_sha256]), seen.thumb[None])


def joined(parts: Sequence[Looks]) -> Looks:
    """Several looks as one, in order."""
    hashes = np.concatenate([part.pixels_sha256 for part in parts])
    return Looks(hashes, np.concatenate([part.thumbs for part in parts]))


def looks_of(cases: Cases) -> Looks:
    """The looks of all cases; from the cache where they were taken before.

    Raises:
        UserError: an image of the dataset cannot be read; it is named.
    """

    def make() -> dict[str, np.ndarray]:
        found = []
        bar = tqdm(
            range(len(cases)), desc="look at cases", unit="image", disable=len(cases) < SHOW_PROGRESS_FROM or None
        )
        for number in bar:
            try:
                found.append(look(cases.stored(number), str(cases.image_id[number])))
            except (ImageError, OSError) as error:
                raise UserError(f"{error}") from error
        return asdict(joined(found))

    return Looks(**cached(["looks", *description_of(cases)], make))


def same_images(one: Looks, many: Looks) -> np.ndarray:
    """Numbers (M,) of those among many that show the one image: exactly, or near enough to be a duplicate.

    Args:
        one: N = 1.
        many: N images.
    """
    exact = np.flatnonzero(many.pixels_sha256 == one.pixels_sha256[0])
    return np.union1d(exact, near_to(one.thumbs[0], many.thumbs)).astype(np.int64)


def repeats(looks: Looks) -> np.ndarray:
    """Numbers (M,) of those that show the same image as one before them in the list."""
    pairs = near_pairs(looks.thumbs)
    later = {second for _, second in pairs}
    first: dict[str, int] = {}
    later |= {i for i, name in enumerate(looks.pixels_sha256.tolist()) if first.setdefault(name, i) != i}
    return np.array(sorted(later), dtype=np.int64)


def dhash(image: Image.Image) -> str:
    """Difference hash (Krawetz 2013) as 16 hex digits: is each of 8 x 8 places brighter than its left neighbour?

    The image in grey, area-averaged to 9 x 8, as the Space does it; the bits row by row, the first bit the highest.
    Images whose hashes differ in few of 64 bits look alike; mirrored or turned ones do not.
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    values = np.asarray(grey)
    bits = (values[:, 1:] > values[:, :-1]).reshape(-1)
    return np.packbits(bits).tobytes().hex()
