"""Examples to look at: of each class a right, a wrong and a declined one, from the split itself or drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.phantom import PHANTOM_LABELS, Phantom, draw
from datasets_scripts.rows import UNKNOWN
from trainers.evaluation.explanation_table import explanations_file, read_table, write_table
from trainers.evaluation.explanations import VERDICTS
from trainers.evaluation.figures.explanations import Example, Examples, save_examples
from trainers.explaining import maps
from trainers.explaining.masks import as_the_model_sees
from trainers.explaining.measure import Subject
from trainers.model_folder.evaluate import EVALUATED_SPLITS
from trainers.model_folder.folder import EvaluatedModel
from trainers.model_folder.release import without_places

# Phantoms from this number on are in no dataset that was built with a small seed.
FIRST_PHANTOM = 50_000_000
PHANTOMS = 30
RIGHT, WRONG, DECLINED = VERDICTS


def dataset_examples(
    subject: Subject, verdicts: dict[str, np.ndarray], licences: np.ndarray, sources: np.ndarray, method: str, seed: int
) -> Examples:
    """One image of each class and kind of a split, by chance, and never by how its heat map looks.

    Args:
        subject: the split and its model.
        verdicts: kind -> (N,) bool, the rows of that kind.
        licences: (N,) str; images of an unknown licence are not shown.
        sources: (N,) str, where each image comes from.
        method: of the heat maps.
        seed: of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(subject.label))
    chosen: dict[tuple[str, str], int] = {}
    for number, label in enumerate(subject.labels):
        for kind, rows in verdicts.items():
            fit = (subject.label == number) & rows & (licences != UNKNOWN)
            for row in order[fit[order]][:1]:
                chosen[label, kind] = int(row)
    found = {}
    for (label, kind), row in chosen.items():
        (batch,) = subject.batches([row], "", progress=False)
        heat = batch.heat(subject.model, method)[0]
        mask = batch.masks[0] if batch.masks[0].any() else None
        image = np.asarray(subject.images.processor.seen(subject.images.read(row)))
        predicted = subject.labels[subject.predicted[row]]
        found[label, kind] = Example(label, kind, predicted, image, heat, mask, _energy(heat, mask))
    shown = sorted({f"{sources[row]} ({licences[row]})" for row in chosen.values()})
    hidden = " Images of an unknown licence are left out." if (licences == UNKNOWN).any() else ""
    caption = (
        f"Images of the {subject.about['split']} split, drawn by chance (seed {seed}), none chosen by its looks. "
        f"From {', '.join(shown) or 'nowhere'}.{hidden}"
    )
    return Examples(found, list(subject.labels), tuple(verdicts), caption)


def phantom_examples(
    model: Any, processor: Any, method: str, *, per_class: int = PHANTOMS, progress: bool = True
) -> Examples:
    """One phantom of each class and kind, the first of a row of them: what may be shown where no photograph may.

    Args:
        model: in eval mode.
        processor: its image processor.
        method: of the heat maps.
        per_class: how many phantoms of each class are tried.
        progress: show a progress bar.
    """
    trust = model.config.trust
    fitted = "conformal" in trust
    settings: dict[str, Any] = {"trust": fitted, "prepared_as": processor.pixel_settings()}
    if fitted:
        settings["inference"] = trust.get("fitted_for", {}).get("inference", "plain")
    labels = list(model.config.labels)
    found: dict[tuple[str, str], Example] = {}
    drawable = [label for label in labels if label in PHANTOM_LABELS]
    for label in tqdm(drawable, desc="draw phantoms", disable=None if progress else True):
        phantoms = [draw(label, FIRST_PHANTOM + number) for number in range(per_class)]
        inputs = processor([phantom.image for phantom in phantoms], return_tensors="pt").to(model.device)
        for place, answer in enumerate(model.predict(**inputs, **settings)):
            kind = DECLINED if answer["abstain"] else RIGHT if answer["predicted"] == label else WRONG
            if (label, kind) not in found:
                alone = {name: value[place : place + 1] for name, value in inputs.items()}
                heat = model.explain(**alone, target=answer["predicted"], method=method).heat_maps[0].cpu().numpy()
                found[label, kind] = _of_phantom(phantoms[place], kind, answer["predicted"], heat, processor)
    undrawn = [label for label in labels if label not in drawable]
    rest = f" No phantom is drawn for {', '.join(undrawn)}." if undrawn else ""
    caption = (
        f"Drawn phantoms, none of them a photograph: the first of each kind among {per_class} of each class. A model "
        f"of real skin need not know what they are.{rest}"
    )
    return Examples(found, labels, VERDICTS if fitted else (RIGHT, WRONG), caption)


def redraw_examples(finished: EvaluatedModel, folder: Path, *, progress: bool = True) -> None:
    """Replace the examples in a copied folder by phantoms, for each split whose heat maps were measured.

    Args:
        finished: the model.
        folder: the copy; the tables of its heat maps are rewritten.
        progress: show progress bars.
    """
    for path in (explanations_file(folder, split) for split in EVALUATED_SPLITS):
        if path.is_file():
            table = read_table(path)
            found = phantom_examples(finished.model, finished.processor, table.about["method"], progress=progress)
            about = without_places(table.about, str(path))
            about["examples"] = [save_examples(found, folder, about)] if found.found else []
            table.about.clear()
            table.about.update(about)
            write_table(table, path)


def _of_phantom(phantom: Phantom, kind: str, predicted: str, heat: np.ndarray, processor: Any) -> Example:
    mask, _ = as_the_model_sees(phantom.lesion_mask, processor, phantom.image, (heat.shape[0], heat.shape[1]))
    seen = mask if mask.any() else None
    image = np.asarray(processor.seen(phantom.image))
    return Example(phantom.label, kind, predicted, image, heat, seen, _energy(heat, seen))


def _energy(heat: np.ndarray, mask: np.ndarray | None) -> float | None:
    return None if mask is None or not heat.any() else maps.energy_inside(heat, mask)
