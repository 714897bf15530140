"""Draw the images that the page offers to try: ``python -m tests.spaces.draw_examples`` from the repository's root.

They are drawings of ``datasets_scripts/phantom.py``; the page itself imports nothing of ours, so they are committed as
small JPEGs beside it. A test draws them again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from datasets_scripts.phantom import draw

FOLDER = Path(__file__).resolve().parents[2] / "spaces" / "lesion_demo" / "examples"
SIZE = (600, 450)
ATTRIBUTION = "Drawn by Lesion Suite's phantom.py, Apache-2.0; drawings, not photographs of anybody"
# File, class drawn, seed, caption.
DRAWINGS = (
    ("drawn_bcc.jpg", "bcc", 4, "Drawn basal cell carcinoma"),
    ("drawn_vasc.jpg", "vasc", 2, "Drawn vascular lesion"),
    ("drawn_mel.jpg", "mel", 1, "Drawn melanoma"),
    ("drawn_nv.jpg", "nv", 3, "Drawn nevus"),
    ("drawn_bkl.jpg", "bkl", 5, "Drawn keratosis"),
    ("drawn_cloth.jpg", "random", 1, "Drawn cloth, no skin at all"),
)


def drawing(label: str, seed: int) -> Image.Image:
    """One of the images."""
    return draw(label, seed, SIZE).image


def main() -> None:
    """Draw them all, with the list of captions."""
    FOLDER.mkdir(exist_ok=True)
    listed = []
    for name, label, seed, caption in DRAWINGS:
        drawing(label, seed).save(FOLDER / name, quality=90, comment=b"drawn, not a photograph")
        listed.append({"file": name, "caption": caption, "attribution": ATTRIBUTION, "drawn": [label, seed, *SIZE]})
    (FOLDER / "examples.json").write_text(json.dumps({"examples": listed}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
