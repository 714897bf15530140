"""Differences between models on the same images, with intervals, and tests that keep a lesion's images together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.command import UserError, read_json
from trainers.evaluation.comparison_tables import PARTIAL, conventions
from trainers.evaluation.paired import (
    RELATIVE,
    Drawn,
    described,
    difference,
    draw,
    lesion_swaps,
    mcnemar,
    one_per_lesion,
    relative_change,
    share_of_gain,
    swap_test,
)
from trainers.evaluation.sample import Sample
from trainers.metrics.aligned import align
from trainers.metrics.intervals import bootstrap_weights, can_resample
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.trust.temperature import calibrated

SCHEMA_VERSION = 1
FILE = "predictions_test.parquet"


@dataclass(frozen=True)
class Model:
    """One model's predictions and the temperature they are read at.

    Attributes:
        name: as messages and tables call it; names no path of the machine.
        predictions: of its split, raw logits.
        temperature: T > 0.
        temperature_from: where T was found, or why it is 1.
    """

    name: str
    predictions: Predictions
    temperature: float
    temperature_from: str

    def described(self) -> dict[str, Any]:
        """Name, temperature and where it was found."""
        return {"name": self.name, "temperature": self.temperature, "temperature_from": self.temperature_from}


def load(path: Path) -> Model:
    """Read a model's predictions, and its temperature from the report or config beside them.

    Raises:
        UserError: no predictions there, or a temperature that is none.
    """
    file = path / FILE if path.is_dir() else path
    name = (path.name or str(path)) if path.is_absolute() else path.as_posix()
    if not file.is_file():
        what = f"holds no {FILE}" if path.is_dir() else "does not exist"
        raise UserError(f"{path.as_posix()!r} {what}: give a finished model's folder or its {FILE}")
    predictions = read_predictions(file)
    fitted, found_in = stored_temperature(file.parent)
    if fitted.get("scale") or fitted.get("bias"):
        # The classes of two models may be put into another order to be compared: what is fitted per class goes before.
        calibrated_rows = replace(predictions, logits=calibrated(predictions.logits, fitted))
        return Model(name, calibrated_rows, 1.0, f"{found_in}, with a bias per class, in the logits already")
    return Model(name, predictions, float(fitted["value"]), found_in)


def stored_temperature(folder: Path) -> tuple[dict[str, Any], str]:
    """The ``trust.temperature`` that a folder's ``report.json`` or ``config.json`` states, and which does; else T = 1.

    Raises:
        UserError: a file that is not JSON, or a temperature that is not a finite number above 0.
    """
    for file in ("report.json", "config.json"):
        try:
            content = read_json(folder / file, finite=False)
            fitted = content["trust"]["temperature"]
            value = fitted["value"]
        except (FileNotFoundError, KeyError, TypeError):
            continue
        except UserError as error:
            raise UserError(f"{folder / file}: {error}; evaluate the model again") from error
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise UserError(f"{folder / file} has the temperature {value!r}: give a number above 0")
        return fitted, f"its {file}"
    return {"value": 1.0}, "no report.json or config.json with a temperature beside it"


def compare(
    sides: dict[str, list[Model]],
    *,
    classes: Sequence[str] = (),
    shared: bool = False,
    replicates: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Set every side against the first.

    Args:
        sides: name -> one model, or several seeds of one recipe, whose metrics are averaged. Beside ``A`` and
            ``B``, a side named ``partial`` is also measured by the share of B's gain over A that it carries.
        classes: whose recall is compared too.
        shared: compare on the images that all have, instead of refusing different ones.
        replicates: bootstrap resamples, and exchanges of the tests.
        seed: of both.
        progress: show a progress bar.

    Returns:
        JSON-ready: ``n``, ``n_groups``, ``models``, ``sides`` (name -> metric -> value with interval; of several seeds
        also each one's value, range and sd), ``comparisons`` (``differences`` with interval and p, ``relative_change``,
        ``mcnemar`` of single models), ``share_of_gain``, ``conventions``.

    Raises:
        UserError: other images or classes, or a class name that the models do not know.
    """
    sides, own_classes = on_shared_classes(sides)
    samples, first = lay_out(sides, shared)
    columns = class_columns(classes, first.labels)
    base, groups = next(iter(sides)), next(iter(samples.values()))[0].groups
    weights = bootstrap_weights(groups, first.label, replicates, seed) if can_resample(groups, first.label) else None
    swaps = lesion_swaps(groups, replicates, seed)
    with tqdm(total=2 * len(sides) - 1, desc="resampling", disable=None if progress else True, leave=False) as bar:
        drawn, p_values = {}, {}
        for name, models in samples.items():
            drawn[name] = draw(models, weights, columns)
            bar.update()
        for name in list(sides)[1:]:
            p_values[name] = swap_test(samples[base], samples[name], swaps, columns)
            bar.update()
    rows = one_per_lesion(groups, first.image_id)
    result = {
        "schema_version": SCHEMA_VERSION,
        **about(first, groups, shared, replicates, seed),
        **({"own_classes": own_classes} if own_classes else {}),
        "models": {name: [model.described() for model in models] for name, models in sides.items()},
        "sides": {name: {key: described(key, one) for key, one in side.items()} for name, side in drawn.items()},
        "comparisons": [
            {"a": base, "b": name, **_changes(drawn[base], drawn[name], found), **_mcnemar(samples, base, name, rows)}
            for name, found in p_values.items()
        ],
    }
    if PARTIAL in drawn:
        result["share_of_gain"] = {
            key: share_of_gain(drawn["A"][key], drawn[PARTIAL][key], drawn["B"][key]) for key in drawn[base]
        }
    return {**result, "conventions": conventions(replicates, all_swaps=swaps[1])}


def on_shared_classes(sides: dict[str, list[Model]]) -> tuple[dict[str, list[Model]], dict[str, list[str]]]:
    """The models as they are when their classes agree, else on benign against malignant.

    Returns:
        The sides, and model name -> its own classes where they were replaced (else empty).

    Raises:
        UserError: the classes differ and a class has no malignancy group.
    """
    models = [model for members in sides.values() for model in members]
    if len({frozenset(model.predictions.labels) for model in models}) == 1:
        return sides, {}
    for model in models:
        if not model.predictions.has_malignancy():
            listed = "; ".join(f"{other.name} has {', '.join(other.predictions.labels)}" for other in models)
            raise UserError(
                f"the models have different classes ({listed}), and those of {model.name} are not known as benign and "
                "malignant ones: give models of the same classes, or with a malignancy group for each class"
            )
    replaced = {model.name: model.predictions.labels for model in models}
    return {name: [_on_malignancy(model) for model in members] for name, members in sides.items()}, replaced


def _on_malignancy(model: Model) -> Model:
    rows = replace(model.predictions, logits=calibrated(model.predictions.logits, model.temperature))
    stated = f"{model.temperature:.3f}, {model.temperature_from}; in the logits already"
    return Model(model.name, rows.on_malignancy(), 1.0, stated)


def lay_out(sides: dict[str, list[Model]], shared: bool) -> tuple[dict[str, list[Sample]], Predictions]:
    """Every model's predictions on the same images at its own temperature, and the first one's as they were aligned.

    Raises:
        UserError: other images, classes or labels.
    """
    models = [model for members in sides.values() for model in members]
    aligned = align([(model.name, model.predictions) for model in models], shared=shared)
    samples = iter([Sample.at(rows, model.temperature) for model, rows in zip(models, aligned, strict=True)])
    return {name: [next(samples) for _ in members] for name, members in sides.items()}, aligned[0]


def class_columns(classes: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Class name -> column.

    Raises:
        UserError: a name that the models do not know.
    """
    for name in classes:
        if name not in labels:
            raise UserError(f"--classes {name!r} is no class of these models: choose from {', '.join(labels)}")
    return {name: list(labels).index(name) for name in classes}


def about(first: Predictions, groups: np.ndarray, shared: bool, replicates: int, seed: int) -> dict[str, Any]:
    """What was compared on."""
    return {
        "dataset": first.dataset,
        "config_name": first.config_name,
        "split": first.split,
        "n": len(first),
        "n_groups": len(set(groups.tolist())),
        "labels": first.labels,
        "only_shared_images": shared,
        "replicates": replicates,
        "seed": seed,
    }


def _changes(a: dict[str, Drawn], b: dict[str, Drawn], p_values: dict[str, float | None]) -> dict[str, Any]:
    return {
        "differences": {name: {**difference(a[name], b[name]), "p": p_values[name]} for name in a},
        "relative_change": {name: relative_change(a[name], b[name]) for name in RELATIVE},
    }


def _mcnemar(samples: dict[str, list[Sample]], a: str, b: str, rows: np.ndarray) -> dict[str, Any]:
    """The exact test where each side is one model: with several seeds there are no single answers to count."""
    if len(samples[a]) > 1 or len(samples[b]) > 1:
        return {}
    return {"mcnemar": mcnemar(samples[a][0].correct[rows], samples[b][0].correct[rows])}
