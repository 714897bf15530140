"""The similar cases of an image: what may not be found, the search, and the result as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.embeddings.cases import Cases, load_cases
from trainers.embeddings.index import CaseIndex, Found
from trainers.embeddings.near_duplicates import joined, look, looks_of, repeats, same_images
from trainers.embeddings.query import ModelOutput, Query
from trainers.metrics.number import plain
from trainers.model_folder.data import Splits

SCHEMA_VERSION = 1
CAUTION = (
    "Similar to this model, which is no diagnosis: the mix of classes among the cases depends on the dataset's, and is "
    "no probability."
)


@dataclass(frozen=True)
class Own:
    """What a query is in the dataset.

    Attributes:
        images: ids of the images that show the same image, exactly or as a near-duplicate, in any split.
        groups: the lesion groups that must not be found: of these images, and of the query where it is one of them.
    """

    images: list[str]
    groups: frozenset[str]


@dataclass(frozen=True)
class Similar:
    """The cases found for one query.

    Attributes:
        found: the k cases, the nearest first.
        own: what was not to be found.
        left_out: images of the index that belong to it.
    """

    found: list[Found]
    own: Own
    left_out: int


def own_groups(query: Query, splits: Splits) -> Own:
    """The query in every split: a lesion photographed twice may stand on two sides of a split that leaks.

    Raises:
        DatasetError: an image of the dataset cannot be read.
    """
    images: list[str] = []
    groups = set() if query.group_id is None else {query.group_id}
    for split, rows in splits.splits.items():
        if len(rows):
            cases = load_cases(splits, split)
            same = same_images(query.looks, looks_of(cases))
            images += [str(cases.image_id[row]) for row in same]
            groups |= {str(cases.group_id[row]) for row in same}
    return Own([image for image in images if image != query.name], frozenset(groups))


def search(index: CaseIndex, cases: Cases, own: Own, features: np.ndarray, k: int) -> Similar:
    """The k most similar cases, none of the query's lesion, none its duplicate, one image a lesion.

    Where the dataset knows no groups, two cases may show one image under two names: the second is passed over, too.

    Args:
        index: of N cases.
        cases: the same N.
        own: what must not be found.
        features: of the query, (D,).
        k: how many.

    Raises:
        UserError: there are not so many.
    """
    refused: set[str] = set()
    while True:
        found = index.nearest(features[None], k, [own.groups | refused])[0]
        again = repeats(joined([look(cases.stored(case.row), str(cases.image_id[case.row])) for case in found]))
        if not len(again):
            return Similar(found, own, int(np.isin(index.groups, list(own.groups)).sum()))
        refused |= {str(index.groups[found[place].row]) for place in again}


def described(
    query: Query, output: ModelOutput, similar: Similar, cases: Cases, long_names: dict[str, str]
) -> dict[str, Any]:
    """Query, answer and cases as JSON holds them."""
    texts = {name: cases.column(name) for name in ("license", "attribution")}
    shown = []
    for rank, found in enumerate(similar.found, 1):
        label = cases.labels[cases.label[found.row]]
        shown.append(
            {
                "rank": rank,
                "image_id": str(cases.image_id[found.row]),
                "label": label,
                "long_name": long_names.get(label, label),
                "cosine": plain(found.cosine),
                "lesion_id": str(cases.lesion_id[found.row]),
                "group_id": str(cases.group_id[found.row]),
                **{name: column[found.row] for name, column in texts.items()},
            }
        )
    known = {"image": query.name, "split": query.split, "label": query.label, "group_id": query.group_id}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "similar_cases",
        "query": known,
        "answer": output.answer,
        "cases": shown,
        "left_out": {
            "images": similar.left_out,
            "same_picture": similar.own.images,
            "why": "of the query's own lesion, or the same image under any name",
        },
        "notes": [*output.notes, CAUTION],
    }


def in_words(result: dict[str, Any]) -> str:
    """What the command prints: the query, the gate's verdict, the table, what was left out, and the caution."""
    query, answer = result["query"], result["answer"]
    where = f" ({query['split']} split, {query['label']})" if query["split"] else ""
    if answer["is_ood"]:
        lines = [f"{query['image']}{where}: declined. {answer['message']}"]
        lines.append("What follows is near in numbers, not similar.")
    else:
        top = answer["probabilities"][answer["predicted"]]
        lines = [f"{query['image']}{where}: predicted {answer['predicted']} ({top:.2f})"]
    rows = [("#", "image_id", "label", "cosine", "lesion", "licence")]
    rows += [
        (str(c["rank"]), c["image_id"], c["label"], f"{c['cosine']:.3f}", c["lesion_id"], c["license"])
        for c in result["cases"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counted = Counter(case["label"] for case in result["cases"]).most_common()
    lines.append("classes: " + ", ".join(f"{count} {label}" for label, count in counted))
    left = result["left_out"]
    if left["same_picture"]:
        lines.append(f"the same image stands in the dataset as {', '.join(left['same_picture'])}")
    if left["images"]:
        lines.append(f"left out: {left['images']} of the query's own lesion")
    sources = sorted({case["attribution"] for case in result["cases"]} - {"unknown"})
    lines += [f"source: {source}" for source in sources]
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines)
