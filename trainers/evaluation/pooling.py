"""From the finished folds of a cross-validation to one evaluation: every image by the model that never saw it.

Pure functions of the folds' reports and predictions. Pooled scores come from several models, each at its own fitted
temperature; where these still differ in scale, a pooled AUROC is somewhat too low (Forman & Scholz 2010), so the values
of the single folds stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from trainers.evaluation.comparison_tables import title
from trainers.evaluation.paired import spread
from trainers.metrics.aligned import in_order_of
from trainers.metrics.number import Number
from trainers.metrics.predictions import Predictions
from trainers.trust.temperature import calibrated

# Metric -> where it stands in one split's evaluation.
PLACES = {
    "accuracy": ("discrimination", "accuracy"),
    "balanced_accuracy": ("discrimination", "balanced_accuracy"),
    "macro_f1": ("discrimination", "macro_f1"),
    "auroc_macro": ("discrimination", "auroc_macro"),
    "auroc_malignant": ("discrimination", "auroc_malignant"),
    "nll": ("calibration", "after", "nll"),
    "brier": ("calibration", "after", "brier"),
    "ece": ("calibration", "after", "ece"),
}
# What differs between the folds of one run by design.
OF_THE_FOLD = ("config_name", "output_dir", "resume_from_checkpoint")
HOW = (
    "Each fold's test images were answered by that fold's model, at the temperature fitted on that fold's calibration "
    "split; the pooled predictions hold these calibrated logits, so T = 1 is their temperature."
)
READ = (
    "Intervals are of the pooled predictions, by lesion: they cover which lesions were drawn, not the training. The "
    "spread over folds holds both, but folds share most of their training images, so its sd is no standard error. A "
    "pooled AUROC ranks scores of several models together and can be a little low; the mean over folds is not."
)


@dataclass(frozen=True)
class Fold:
    """One finished fold.

    Attributes:
        name: ``fold0`` and so on.
        report: its ``report.json``.
        predictions: of its test split, raw logits.
    """

    name: str
    report: dict[str, Any]
    predictions: Predictions

    @property
    def temperature(self) -> float:
        """T, fitted on the fold's own calibration split."""
        return float(self.report["trust"]["temperature"]["value"])


def pool(folds: Sequence[Fold]) -> Predictions:
    """All folds' test predictions as one: logits calibrated as each fold's are, so that T = 1 from here on.

    Features and gate are left out (each model has its own), and subgroup columns that not every fold has.

    Raises:
        UserError: no fold, an image in the test of two, other classes, or another number of members.
    """
    if not folds:
        raise UserError("there is no fold to pool: give at least one")
    first = folds[0]
    seen: dict[str, str] = {}
    parts = []
    for fold in folds:
        # Calibrated first: what was fitted for each class is in the fold's own order of the classes.
        own = calibrated(fold.predictions.logits, fold.report["trust"]["temperature"])
        part = in_order_of(first.predictions.labels, replace(fold.predictions, logits=own))
        if part is None:
            raise UserError(
                f"{fold.name} has the classes {', '.join(fold.predictions.labels)}, {first.name} has "
                f"{', '.join(first.predictions.labels)}: folds of one dataset have the same"
            )
        members = fold.predictions.logits.shape[1], first.predictions.logits.shape[1]
        if members[0] != members[1]:
            raise UserError(f"{fold.name} has {members[0]} members, {first.name} has {members[1]}: train them alike")
        for image in fold.predictions.image_id.tolist():
            if image in seen:
                raise UserError(
                    f"image {image!r} is in the test of {seen[image]} and of {fold.name}: an image is tested in one "
                    "fold; train both on one build of the dataset"
                )
            seen[image] = fold.name
        parts.append(part)
    shared = set.intersection(*(set(part.columns) for part in parts))
    return replace(
        first.predictions,
        image_id=np.concatenate([part.image_id for part in parts]),
        lesion_id=np.concatenate([part.lesion_id for part in parts]),
        group_id=np.concatenate([part.group_id for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in sorted(shared)},
        features=None,
        early=None,
        ood_score=None,
        config_name=f"{first.name} to {folds[-1].name}" if len(folds) > 1 else first.name,
    )


def check_alike(folds: Sequence[Fold]) -> None:
    """Refuse folds of different recipes or datasets: their mean would be of nothing.

    Raises:
        UserError: names the fold, the setting and both values.
    """
    first = folds[0]
    for fold in folds:
        found, wanted = (_settings(one) for one in (fold, first))
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"{fold.name} was trained with {name} {found.get(name)!r}, {first.name} with {wanted.get(name)!r}: "
                    f"delete the folder of the one that is wrong and run the same command again"
                )


def _settings(fold: Fold) -> dict[str, Any]:
    origin = fold.report["provenance"]
    recipe = {name: value for name, value in origin["recipe"].items() if name not in OF_THE_FOLD}
    return {**recipe, "seed": origin["seed"], "dataset": origin["dataset"]["name"], "number of images": _images(fold)}


def _images(fold: Fold) -> int:
    """Images in all splits of the fold's config together."""
    return sum(split["n"] for split in fold.report["provenance"]["dataset"]["splits"].values())


def fold_values(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """The point values of one fold's test evaluation: every metric of ``PLACES``, and ``recall NAME`` of each class."""
    values = {}
    for name, path in PLACES.items():
        found: Any = evaluation
        for key in path:
            found = found[key]
        values[name] = found["value"]
    return values | {f"recall {row['name']}": row["recall"]["value"] for row in evaluation["per_class"]}


def over_folds(folds: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Metric -> ``mean, sd, min, max, n`` over the folds and ``each`` of them; a fold without a value is left out."""
    return {
        name: {
            **spread([np.nan if fold[name] is None else float(fold[name] or 0.0) for fold in folds]),
            "each": [fold[name] for fold in folds],
        }
        for name in folds[0]
    }


def pooled_report(folds: Sequence[Fold], pooled: Predictions, provenance: dict[str, Any]) -> dict[str, Any]:
    """Everything of the pooled ``report.json`` but its ``evaluation`` and ``figures``.

    Args:
        folds: in order.
        pooled: what ``pool`` made of them.
        provenance: of the command; the recipe, packages and machine are the first fold's.
    """
    first = folds[0].report
    values = [fold_values(fold.report["evaluation"]["test"]) for fold in folds]
    recipe = {name: value for name, value in first["provenance"]["recipe"].items() if name not in OF_THE_FOLD}
    total = _images(folds[0])
    per_model = ("initialised_from", "notes")
    return {
        "schema_version": 1,
        "kind": "cross_validation",
        "model": {name: value for name, value in first["model"].items() if name not in per_model},
        "provenance": {**first["provenance"], "recipe": recipe, **provenance},
        "coverage": {"images": len(pooled), "of": total, "complete": len(pooled) == total},
        "folds": [
            {
                "name": fold.name,
                "n": len(fold.predictions),
                "n_groups": len(set(fold.predictions.group_id.tolist())),
                "temperature": fold.temperature,
                "leaking": fold.report.get("leak_audit", {}).get("test", {}).get("leaking"),
                "train_seconds": fold.report.get("training", {}).get("train_seconds"),
                "metrics": one,
            }
            for fold, one in zip(folds, values, strict=True)
        ],
        "over_folds": over_folds(values),
        "trust": {
            "temperature": {
                "value": 1.0,
                "method": HOW,
                "folds": {fold.name: fold.temperature for fold in folds},
            }
        },
    }


def summary(report: dict[str, Any]) -> str:
    """The ``README.md`` of a cross-validation: a pure function of its report."""
    test, folds, coverage = report["evaluation"]["test"], report["folds"], report["coverage"]
    covered = "Every image of the dataset is in the test of exactly one fold."
    if not coverage["complete"]:
        covered = f"These folds test {coverage['images']:,} of the dataset's {coverage['of']:,} images."
    leaks = sum(fold["leaking"] or 0 for fold in folds)
    if leaks:
        covered += f" {leaks:,} test images have a sibling of their lesion in train: the figures are too good."
    name = report["provenance"]["dataset"]["name"]
    figures = [f"![{figure['file']}]({figure['file']})\n\n{figure['caption']}\n" for figure in report["figures"]]
    lines = [
        f"# {report['model']['title']}: {len(folds)} folds",
        "",
        f"{name}, {test['n']:,} test images of {test['n_groups']:,} lesions. {covered} {HOW}",
        "",
        *metric_table(report),
        "",
        *fold_table(folds),
        "",
        READ,
        "",
        *figures,
        f"Made by `{report['provenance']['command']}`. Each fold's folder is a complete model with its own card; every "
        "number here is in `report.json`, `predictions_test.parquet` holds the pooled predictions. Research software, "
        "never a medical device.",
    ]
    return "\n".join(lines) + "\n"


def metric_table(report: dict[str, Any]) -> list[str]:
    """Each metric pooled and over the folds, then each class's recall: lines of Markdown."""
    lines = ["| metric | pooled (95 % interval) | mean over folds (sd) | least to greatest |", "|---|---:|---:|---:|"]
    for name, pooled in _pooled_numbers(report["evaluation"]["test"]).items():
        over, mean, ends = report["over_folds"][name], "n/a", "n/a"
        if over["n"]:
            mean = f"{over['mean']:.3f}" + (f" ({over['sd']:.3f})" if over["sd"] is not None else "")
            ends = f"{over['min']:.3f} to {over['max']:.3f}"
        lines.append(f"| {title(name)} | {Number.read(pooled).text()} | {mean} | {ends} |")
    return lines


def fold_table(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per fold: lines of Markdown."""
    lines = [
        "| fold | test images | lesions | T | accuracy | balanced accuracy | macro F1 | NLL |",
        "|---|" + "---:|" * 7,
    ]
    for fold in folds:
        values = [fold["metrics"][name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll")]
        cells = [f"{fold['n']:,}", f"{fold['n_groups']:,}", f"{fold['temperature']:.3f}"]
        cells += ["n/a" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {fold['name']} | {' | '.join(cells)} |")
    return lines


def _pooled_numbers(test: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, path in PLACES.items():
        number: Any = test
        for key in path:
            number = number[key]
        found[name] = number
    return found | {f"recall {row['name']}": row["recall"] for row in test["per_class"]}
