"""A gallery: a split's cases with their features and thumbnails, in the few files that the Space reads.

``gallery.parquet`` has one row per image: ``image_id``, ``lesion_id``, ``group_id``, ``label`` (short name),
``features`` (D float16, of length 1), ``thumbnail`` (JPEG bytes), ``dhash`` (16 hex digits), ``license``,
``attribution``.
``gallery.json`` says of which model and dataset. It holds real images, under the dataset's licence.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from datasets_scripts import shards
from datasets_scripts.output import written_whole
from model_cards.report_view import cell
from trainers.embeddings.cases import Cases
from trainers.embeddings.near_duplicates import dhash
from trainers.embeddings.representations import Encoder, unit
from trainers.embeddings.thumbnails import jpeg_thumbnail
from trainers.model_folder.provenance import origin

FORMAT_VERSION = 1
TABLE_NAME, ABOUT_NAME = "gallery.parquet", "gallery.json"
LONGEST_SIDE = 160
# Small row groups let a page read one row's image without the whole file.
ROWS_PER_GROUP = 200


def at_most_per_class(cases: Cases, most: int | None, seed: int) -> Cases:
    """All cases, or a seeded draw of at most so many a class, of as many different lesions as there are.

    Similar cases show a lesion once, so a class is better filled with one image of each of its lesions than with
    several of some: the second image of any lesion is drawn after the first ones of all.

    Args:
        cases: of a split.
        most: images per class; None = all.
        seed: of the draw.
    """
    if most is None:
        return cases
    rng, taken = np.random.default_rng(seed), []
    for label in range(len(cases.labels)):
        members = rng.permutation(np.flatnonzero(cases.label == label))
        seen: Counter[str] = Counter()
        turns = []
        for group in cases.group_id[members]:
            turns.append(seen[group])
            seen[group] += 1
        taken.append(members[np.argsort(turns, kind="stable")[:most]])
    return cases.select(np.sort(np.concatenate(taken)))


def build_gallery(cases: Cases, features: np.ndarray, encoder: Encoder, out: Path) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole; returns what ``gallery.json`` says.

    Args:
        cases: N images of one split.
        features: (N, D) of the same images.
        encoder: the model that made them.
        out: absent, or an empty folder.

    Raises:
        DatasetError: an image cannot be read.
    """
    about = describe(cases, features, encoder)
    with written_whole(out) as folder:
        pq.write_table(table(cases, features), folder / TABLE_NAME, compression="zstd", row_group_size=ROWS_PER_GROUP)
        _write_json(folder / ABOUT_NAME, about)
        (folder / "README.md").write_text(card(about, cases), encoding="utf-8")
        _write_json(folder / shards.MANIFEST, shards.manifest(folder))
    return about


def table(cases: Cases, features: np.ndarray) -> pa.Table:
    """The rows of ``gallery.parquet``."""
    thumbnails, hashes = [], []
    for image in cases.images("thumbnails"):
        thumbnails.append(jpeg_thumbnail(image, LONGEST_SIDE))
        hashes.append(dhash(image))
    flat = unit(features).astype(np.float16).reshape(-1)
    return pa.table(
        {
            **{name: [str(v) for v in getattr(cases, name)] for name in ("image_id", "lesion_id", "group_id")},
            "label": [cases.labels[label] for label in cases.label],
            "features": pa.FixedSizeListArray.from_arrays(pa.array(flat), features.shape[1]),
            "thumbnail": pa.array(thumbnails, pa.binary()),
            "dhash": hashes,
            "license": cases.column("license"),
            "attribution": cases.column("attribution"),
        }
    )


def describe(cases: Cases, features: np.ndarray, encoder: Encoder) -> dict[str, Any]:
    """What ``gallery.json`` says."""
    made, long_names = origin(), dict(encoder.model.config.label_names)
    splits = cases.splits
    return {
        "format_version": FORMAT_VERSION,
        "model": {
            "name": encoder.name,
            "title": str(encoder.report.get("model", {}).get("title") or encoder.name),
            "commit": encoder.commit,
        },
        "dataset": {"name": splits.name, "config_name": splits.config_name, "split": cases.split},
        "labels": {name: long_names.get(name, name) for name in cases.labels},
        "dim": int(features.shape[1]),
        "similarity": "cosine",
        "n": len(cases),
        "license": ", ".join(sorted(set(cases.column("license")))),
        "created": made["created"],
        "command": made["command"],
    }


def card(about: dict[str, Any], cases: Cases) -> str:
    """The folder's README.md: what it holds, whose images these are, and what it must not be used for."""
    dataset, licences = about["dataset"], sorted(set(cases.column("license")))
    known = len(licences) == 1 and licences[0] != "unknown"
    head: dict[str, Any] = {"pretty_name": f"Similar cases: {dataset['name']}"}
    head |= {"license": licences[0]} if known else {"license": "other", "license_name": "see-the-license-column"}
    head["tags"] = ["dermatology", "skin-lesion", "medical", "not-a-medical-device", "image-retrieval"]
    head["configs"] = [
        {"config_name": "default", "data_files": [{"split": dataset["split"], "path": TABLE_NAME}]},
    ]
    counts = [
        f"| {cell(name)} | {cell(about['labels'][name])} | {count} | "
        f"{len(set(cases.group_id[cases.label == index].tolist()))} |"
        for index, (name, count) in enumerate(cases.counts().items())
    ]
    sources = sorted(set(zip(cases.column("attribution"), cases.column("license"), strict=True)))
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)}---",
        f"# Similar cases: {dataset['name']} as {about['model']['title']} sees it",
        "**Not a medical device. For research and teaching only: that an image resembles a case here says nothing "
        "certain about a person's skin.**",
        f"{about['n']:,} images of {cases.n_groups:,} lesions: split `{dataset['split']}`, config "
        f"`{dataset['config_name']}` of `{dataset['name']}`, with the {about['dim']:,} features of "
        f"`{about['model']['name']}` scaled to length 1, so that their inner product is the cosine.",
        "| label | name | images | lesions |\n|---|---|---|---|\n" + "\n".join(counts),
        "Where classes were cut to a number of images, rare diagnoses stand here more often than among patients: the "
        "mix of labels among the cases that are found is no probability.",
        "## Columns",
        "`image_id`, `lesion_id`, `group_id` (a lesion with its near-duplicates), `label`, `features` (float16), "
        "`thumbnail` (JPEG, longest side at most 160 pixels), `dhash` (64-bit difference hash: grey, area-averaged to "
        "9 x 8, each place brighter than its left neighbour, row by row), `license`, `attribution`.",
        USE,
        "Show one image of a lesion, and none of the query's own: find the rows whose `dhash` differs from the query's "
        "in a few of 64 bits first, and leave their whole `group_id` out.",
        "## Licence and attribution",
        "\n".join(f"- {attribution}: {licence}" for attribution, licence in sources),
        f"Made {about['created']} by `{about['command']}`; `manifest.json` holds the checksums.",
    ]
    return "\n\n".join(parts) + "\n"


USE = """```python
from datasets import load_dataset

cases = load_dataset("parquet", data_files="gallery.parquet", split="train")
cases.add_faiss_index("features", metric_type=0)  # 0 = inner product; left out, it would be Euclidean distance
cosines, found = cases.get_nearest_examples("features", features, k=8)  # features: (D,) float32 of length 1
```"""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
