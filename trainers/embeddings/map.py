"""The whole of a latent map: from dataset and models to numbers, charts and a page, in a folder that appears whole."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from datasets_scripts.rows import Columns
from trainers.embeddings.cases import Cases, load_cases, whole_lesions
from trainers.embeddings.class_colours import ClassLook, class_looks
from trainers.embeddings.cluster_quality import Evaluated, difference
from trainers.embeddings.map_figures import TITLES, Panel, draw_maps, draw_quality
from trainers.embeddings.map_page import PageSplit, render_page
from trainers.embeddings.map_tables import CSV_NAME, MARKDOWN_NAME, quality_csv, quality_markdown
from trainers.embeddings.neighbours import check_k
from trainers.embeddings.projection import check_perplexity, draw_map
from trainers.embeddings.representations import (
    CODES,
    FEATURES,
    ORDER,
    PIXELS,
    Encoder,
    encode,
    load_autoencoder,
    load_classifier,
    pixel_vector,
)
from trainers.embeddings.thumbnails import jpeg_thumbnail
from trainers.evaluation.figures.charts import FOLDER, save_figure
from trainers.model_folder.data import Splits
from trainers.model_folder.folder import load_splits_of
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import describe_dataset, origin

SCHEMA_VERSION = 1
PAGE_NAME, REPORT_NAME, POINTS_NAME = "map.html", "report.json", "points.parquet"
# Small enough that a page of thousands of them still opens.
THUMBNAIL_QUALITY = 60
# Values of plain pixels in all: comparing them takes some ten copies of 4 bytes each, that is 5 GB.
MOST_PIXEL_VALUES = 2**27


@dataclass(frozen=True)
class Settings:
    """What may be chosen; the command's options of the same names describe them."""

    perplexity: float = 30.0
    k: int = 5
    metric: str = "cosine"
    pixels: int = 32
    images: int = 10_000
    thumbnail: int = 96
    seed: int = 0
    bootstrap_replicates: int = 1000
    batch_size: int = 64


@dataclass(frozen=True)
class Looked:
    """What one pass over the images of a split gives: plain pixels (N, D), and N thumbnails or none."""

    pixels: np.ndarray
    thumbnails: list[bytes]


def map_latent(
    dataset: str,
    config_name: str,
    model: str,
    autoencoder: str | None,
    chosen: list[str],
    out: Path,
    settings: Settings,
    columns: Columns | None = None,
) -> dict[str, Any]:
    """Write the folder ``out``; returns its report.

    Args:
        dataset: folder or Hub id.
        config_name: its config.
        model: a classifier of the suite that looks at images: folder or Hub id.
        autoencoder: an autoencoder of the suite, or None.
        chosen: the splits to map.
        out: absent, or an empty folder.
        settings: the rest.
        columns: of the dataset; None = those of the model's training.

    Raises:
        UserError: whatever a user can fix, before minutes were spent where that can be known.
    """
    check_empty(out, "--out")
    splits = load_splits_of(model, dataset, config_name, columns=columns)
    cases = {split: whole_lesions(load_cases(splits, split), settings.images, settings.seed) for split in chosen}
    for of_split in cases.values():
        check_split(of_split, settings)
    encoders = {FEATURES: load_classifier(model)}
    labels = encoders[FEATURES].model.config.labels
    splits, cases = splits.in_order(labels), {split: some.in_order(labels) for split, some in cases.items()}
    if autoencoder is not None:
        encoders[CODES] = load_autoencoder(autoencoder)
    looks = looks_of(encoders[FEATURES], splits, next(iter(cases.values())))
    report = describe(splits, encoders, settings)
    pages: dict[str, PageSplit] = {}
    for split, of_split in cases.items():
        seen = look_at(of_split, settings.pixels, settings.thumbnail)
        vectors = {PIXELS: seen.pixels}
        vectors |= {kind: encode(it, of_split, batch_size=settings.batch_size) for kind, it in encoders.items()}
        numbers, panels = evaluate_split(of_split, vectors, settings)
        report["splits"][split] = {**counted(of_split, splits), **numbers}
        pages[split] = PageSplit(of_split, panels, seen.thumbnails)
    write(report, pages, looks, out)
    return report


def check_split(cases: Cases, settings: Settings) -> None:
    """Refuse a split of which no map, or no number, can be made.

    Raises:
        UserError: fewer than two classes, too few images for the perplexity, or for the neighbours; more plain pixels
            than memory may hold.
    """
    present = [name for name, count in cases.counts().items() if count]
    if len(present) < 2:
        raise UserError(
            f"the split {cases.split!r} of {cases.splits.name!r} holds {len(present)} class ({', '.join(present)}): "
            "clusters need two or more; choose other --splits"
        )
    if 3 * settings.pixels**2 * len(cases) > MOST_PIXEL_VALUES:
        most = math.isqrt(MOST_PIXEL_VALUES // (3 * len(cases)))
        raise UserError(
            f"--pixels {settings.pixels} makes more values of {len(cases)} images than can be compared in memory: "
            f"choose at most {most}"
        )
    check_perplexity(settings.perplexity, len(cases), f"the split {cases.split!r}")
    check_k(cases.group_id, settings.k, f"the split {cases.split!r}")


def looks_of(classifier: Encoder, splits: Splits, cases: Cases) -> list[ClassLook]:
    """Colours and shapes by the classes' counts in the first split that is shown."""
    config = classifier.model.config
    counts = np.bincount(cases.label, minlength=len(splits.labels))
    return class_looks(splits.labels, counts, dict(config.label_names), dict(config.label_groups))


def look_at(cases: Cases, side: int, thumbnail: int) -> Looked:
    """Read every image once.

    Args:
        cases: of one split.
        side: of the downsized pixels.
        thumbnail: longest side of a thumbnail in pixels; 0 = none.
    """
    vectors, thumbnails = [], []
    for image in cases.images(f"look at {cases.split}"):
        vectors.append(pixel_vector(image, side))
        if thumbnail:
            thumbnails.append(jpeg_thumbnail(image, thumbnail, THUMBNAIL_QUALITY))
    return Looked(np.stack(vectors), thumbnails)


def evaluate_split(
    cases: Cases, vectors: dict[str, np.ndarray], settings: Settings
) -> tuple[dict[str, Any], list[Panel]]:
    """Numbers and maps of one split.

    Args:
        cases: its N images.
        vectors: representation -> (N, D).
        settings: of the run.

    Returns:
        ``{"representations": ..., "differences": ...}``, and a panel a representation in the order of ``ORDER``.
    """
    evaluated, numbers, panels = {}, {}, []
    for kind in (kind for kind in ORDER if kind in vectors):
        evaluated[kind] = Evaluated(
            vectors[kind],
            cases.label,
            cases.group_id,
            cases.labels,
            metric=settings.metric,
            k=settings.k,
            replicates=settings.bootstrap_replicates,
            seed=settings.seed,
        )
        print(f"{cases.split}: t-SNE of {TITLES[kind].lower()} ({len(cases):,} images)", flush=True)
        drawn = draw_map(evaluated[kind].space, settings.perplexity, settings.seed)
        numbers[kind] = {**evaluated[kind].numbers, "map": drawn.numbers}
        panels.append(Panel(kind, drawn.points, numbers[kind]))
    kinds = list(evaluated)
    differences = {
        f"{TITLES[one].lower()} minus {TITLES[other].lower()}": difference(evaluated[one], evaluated[other])
        for place, one in enumerate(kinds)
        for other in kinds[:place]
    }
    return {"representations": numbers, "differences": differences}, panels


def describe(splits: Splits, encoders: dict[str, Encoder], settings: Settings) -> dict[str, Any]:
    """The report but for what is measured."""
    dataset = describe_dataset(splits)
    names = {kind: {"name": it.name, "commit": it.commit} for kind, it in encoders.items()}
    title = f"{splits.name} ({splits.config_name}) as {names[FEATURES]['name']} sees it"
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "latent_map",
        "title": title,
        "encoders": names,
        "settings": asdict(settings),
        "dataset": dataset,
        "origin": origin(),
        "splits": {},
        "notes": notes(dataset, encoders[FEATURES], settings),
    }


def notes(dataset: dict[str, Any], classifier: Encoder, settings: Settings) -> list[str]:
    """What a reader of the numbers must know."""
    report = classifier.report
    trained_on = report.get("trained_on") or report.get("provenance", {}).get("dataset", {})
    if "imported" in report or not trained_on:
        known = "Whether the classifier was trained on these images is not known."
    elif trained_on.get("fingerprint") == dataset["fingerprint"]:
        known = (
            "The classifier was trained on this dataset's train split: its features know those labels, so its numbers "
            "there are no evidence. Read the test split."
        )
    else:
        known = f"The classifier was trained on {trained_on.get('name', 'another dataset')}, not on these splits."
    return [
        known,
        f"All numbers but the map's own are of the vectors themselves, by {settings.metric} distance.",
        "An image's own lesion, and near-duplicates of it, are never among its neighbours and stand in no mean "
        "distance of its silhouette; 'same lesion is nearest' alone looks at them.",
        "Intervals are 95 % by lesion, with the neighbours of each image as they are; chance is what shuffled labels "
        "give.",
        "Not a medical device. Neighbours in such a space are no diagnosis.",
    ]


def counted(cases: Cases, splits: Splits) -> dict[str, Any]:
    """How many images of how many lesions of which classes, and of how many they were drawn."""
    return {
        "n": len(cases),
        "n_of": len(splits.splits[cases.split]),
        "n_groups": cases.n_groups,
        "per_class": cases.counts(),
    }


def write(report: dict[str, Any], pages: dict[str, PageSplit], looks: list[ClassLook], out: Path) -> None:
    """Write everything into ``out``."""
    dataset = report["dataset"]
    where = f"{dataset['name']} ({dataset['config_name']})"
    with written_whole(out) as folder:
        (folder / FOLDER).mkdir()
        report["figures"] = []
        for split, page in pages.items():
            counts = f"{len(page.cases):,} images of {page.cases.n_groups:,} lesions"
            figure = draw_maps(
                page.panels, page.cases.label, page.cases.group_id, looks, f"t-SNE: {split} split, {where}, {counts}"
            )
            caption = f"t-SNE of the {split} split, {counts}; thin lines tie the images of one lesion."
            report["figures"].append(save_figure(figure, folder, f"map_{split}.png", caption))
        quality = draw_quality(
            {split: of["representations"] for split, of in report["splits"].items()}, f"How classes gather: {where}"
        )
        caption = "k-NN balanced accuracy and silhouette with 95 % intervals by lesion, beside shuffled labels."
        report["figures"].append(save_figure(quality, folder, "cluster_quality.png", caption))
        licences, sources = (", ".join(dataset[name]) for name in ("license", "attribution"))
        notice = (
            f"Holds images of {dataset['name']}, licence {licences} ({sources}): pass it on under that licence only. "
            "Research software, not a medical device: a neighbour on this map is no diagnosis."
        )
        if not any(page.thumbnails for page in pages.values()):
            notice = "Points only. Research software, not a medical device."
        (folder / PAGE_NAME).write_text(render_page(pages, looks, report["title"], notice), encoding="utf-8")
        (folder / CSV_NAME).write_text(quality_csv(report), encoding="utf-8", newline="")
        (folder / MARKDOWN_NAME).write_text(quality_markdown(report), encoding="utf-8")
        pq.write_table(points_table(pages), folder / POINTS_NAME, compression="zstd")
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / REPORT_NAME).write_text(text + "\n", encoding="utf-8")


def points_table(pages: dict[str, PageSplit]) -> pa.Table:
    """One row per image and representation: ids, class, and x and y on the map."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("split", "representation", "image_id", "lesion_id", "group_id", "label", "x", "y")
    }
    for split, page in pages.items():
        cases = page.cases
        for panel in page.panels:
            columns["split"] += [split] * len(cases)
            columns["representation"] += [panel.kind] * len(cases)
            for name in ("image_id", "lesion_id", "group_id"):
                columns[name] += [str(value) for value in getattr(cases, name)]
            columns["label"] += [cases.labels[label] for label in cases.label]
            columns["x"] += panel.points[:, 0].tolist()
            columns["y"] += panel.points[:, 1].tolist()
    return pa.table(columns)
