"""The maps as one page: a single file that needs no network.

With thumbnails it holds real images of the dataset, so it is an output of a run like the dataset itself, to be passed
on under the dataset's licence only.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainers.embeddings.cases import Cases
from trainers.embeddings.class_colours import ClassLook
from trainers.embeddings.map_figures import TITLES, Panel, lesion_lines
from trainers.metrics.number import Number
from trainers.metrics.predictions import MALIGNANT_GROUPS

TEMPLATE = Path(__file__).with_name("page.html")
DIGITS = 4


@dataclass(frozen=True)
class PageSplit:
    """One split on the page.

    Attributes:
        cases: its N images.
        panels: its maps.
        thumbnails: N JPEG files, or none at all for a page of points alone.
    """

    cases: Cases
    panels: Sequence[Panel]
    thumbnails: Sequence[bytes]


def render_page(splits: Mapping[str, PageSplit], looks: Sequence[ClassLook], title: str, notice: str) -> str:
    """The page as HTML.

    Args:
        splits: name -> what is shown of it, the first one first.
        looks: of the C classes.
        title: what the page shows.
        notice: what must be known beside it: licence, and that it is no medical device.
    """
    data = {
        "classes": [
            {
                "name": look.name,
                "long": look.long_name,
                "colour": look.colour,
                "shape": look.shape,
                "risk": look.group in MALIGNANT_GROUPS,
            }
            for look in looks
        ],
        "splits": {name: _split(split) for name, split in splits.items()},
    }
    # Inside a script element only "<" could end it, and JSON may write it as an escape.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, value in (("title", html.escape(title)), ("notice", html.escape(notice)), ("data", text)):
        page = page.replace("{{" + name + "}}", value)
    return page


def _split(split: PageSplit) -> dict[str, Any]:
    cases = split.cases
    lesions = np.unique(cases.group_id.astype(str), return_inverse=True)[1]
    return {
        "title": f"{cases.split} ({len(cases):,} images, {cases.n_groups:,} lesions)",
        "id": [str(name) for name in cases.image_id],
        "label": cases.label.tolist(),
        "lesion": lesions.tolist(),
        "lines": lesion_lines(cases.group_id).tolist(),
        "thumb": [base64.b64encode(thumbnail).decode("ascii") for thumbnail in split.thumbnails],
        "maps": {
            panel.kind: {
                "title": f"{TITLES[panel.kind]} ({panel.numbers['dimensions']:,})",
                "points": in_unit_square(panel.points).round(DIGITS).reshape(-1).tolist(),
                "numbers": in_words(panel.numbers),
            }
            for panel in split.panels
        },
    }


def in_unit_square(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) moved and scaled, alike in both directions, to fill [0, 1] x [0, 1] about its middle."""
    low, high = points.min(axis=0), points.max(axis=0)
    widest = float((high - low).max())
    middle = points - (low + high) / 2
    return (middle / widest if widest > 0 else middle).astype(np.float64) + 0.5


def in_words(numbers: Mapping[str, Any]) -> list[str]:
    """The numbers of a space as sentences."""
    knn, silhouette, drawn, siblings = (numbers[name] for name in ("knn", "silhouette", "map", "sibling_first"))

    lines = [
        f"Class by the vote of the {knn['k']} nearest images of other lesions: balanced accuracy "
        f"{Number.read(knn['balanced_accuracy']).text()}; with shuffled labels {knn['chance']['value']:.3f}.",
        f"Silhouette, mean over the classes: {Number.read(silhouette['mean_over_classes']).text()}; with shuffled "
        f"labels {silhouette['chance']['value']:.3f}.",
        f"The map keeps {100 * drawn['neighbours_kept']:.0f} % of each image's {drawn['neighbours']} nearest; its "
        f"trustworthiness is {drawn['trustworthiness']:.3f}.",
    ]
    if siblings["value"] is not None:
        lines.append(
            f"Of images whose lesion has another image, {100 * siblings['value']:.0f} % have it as the nearest of all."
        )
    return [*lines, "All but the map's own are measured on the vectors, not on the map."]
