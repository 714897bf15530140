"""What ``trainers.compare`` prints: Markdown tables of a comparison's numbers, and how to read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model_cards.report_view import cell
from trainers.evaluation.paired import ERRORS
from trainers.metrics.number import Number

PARTIAL = "partial"
NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc_macro": "AUROC, macro",
    "auroc_malignant": "AUROC, malignant",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_debiased": "ECE, debiased",
}
UP, DOWN = "↑", "↓"


def conventions(replicates: int, *, all_swaps: bool) -> dict[str, str]:
    """What the numbers of a comparison mean; goes into its JSON."""
    exchanges = "all exchanges" if all_swaps else f"{replicates} random exchanges and the observed one"
    return {
        "difference": "The side minus the first one. Accuracy, F1, AUROC and recall are better when higher, NLL, Brier "
        "score (sum over classes, 0 to 2) and ECE when lower.",
        "interval": f"Paired bootstrap: {replicates} resamples of lesion groups within each class, the same for both "
        "sides; 95 % percentile. ECE's are centred on the value. It covers which lesions were drawn, not which seeds: "
        "the spread over seeds stands beside it.",
        "p": f"Two-sided; the sides' predictions are exchanged within lesions ({exchanges}; Noreen 1989, Yeh 2000). It "
        "asks whether the two sides are interchangeable, and is not adjusted for the number of metrics or models. "
        "AUROC exchanges ranks (Bandos et al. 2005).",
        "ece": "Chance lifts the ECE of a finite sample, most where the model is well calibrated, and so pulls "
        "differences and relative changes towards 0; 'debiased' takes part of that away (Kumar et al. 2019).",
        "mcnemar": "Exact, on one image per lesion (the first by its id), so that the images are independent.",
        "share_of_gain": "(partial - A) / (B - A), within each resample; not defined where the gain's interval "
        "contains 0.",
    }


def markdown(result: dict[str, Any]) -> str:
    """The comparison as Markdown, ending in one newline."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: dict[str, Any]) -> Iterator[str]:
    where = ", ".join(part for part in (result["dataset"], result["config_name"], result["split"]) if part)
    kept = ", shared by all" if result["only_shared_images"] else ""
    yield f"# Comparison on {result['n']:,} images of {result['n_groups']:,} lesions ({where}{kept})"
    yield ""
    if "own_classes" in result:
        yield (
            "The models have different classes. They are compared on benign against malignant: the probabilities of "
            "the malignant and premalignant classes are summed, and an image counts as malignant from 0.5 on."
        )
        yield ""
        for name, labels in result["own_classes"].items():
            yield f"- {name}: {', '.join(labels)}"
        yield ""
    for side, models in result["models"].items():
        of = f"mean of {len(models)} models: " if len(models) > 1 else ""
        yield f"- {side}: {of}" + "; ".join(_model(model) for model in models)
    for comparison in result["comparisons"]:
        yield from _comparison(result, comparison)
    if any(len(models) > 1 for models in result["models"].values()):
        yield from _seeds(result)
    if "share_of_gain" in result:
        yield from _shares(result["share_of_gain"])
    yield ""
    yield (
        "Intervals: 95 %, paired bootstrap by lesion. p: two-sided, exchanging the sides within lesions; not adjusted "
        "for the number of comparisons."
    )


def _model(model: dict[str, Any]) -> str:
    return f"{model['name']} (T = {model['temperature']:.3f}, {model['temperature_from']})"


def _comparison(result: dict[str, Any], comparison: dict[str, Any]) -> Iterator[str]:
    a, b = comparison["a"], comparison["b"]
    yield f"\n## {b} against {a}\n"
    yield f"| metric | {a} | {b} | {b} - {a} (95 % interval) | p |"
    yield "|---|---:|---:|---:|---:|"
    for name, change in comparison["differences"].items():
        cells = [Number.read(result["sides"][side][name]).text() for side in (a, b)]
        shown = Number.read(change).text(4, signed=True)
        yield f"| {title(name)} | {' | '.join(cells)} | {shown} | {p_value(change['p'])} |"
    changes = [
        f"{NAMES[name]} {Number.read(value).text(0, signed=True, percent=True)}"
        for name, value in comparison["relative_change"].items()
    ]
    yield ""
    yield "Relative change: " + "; ".join(changes) + "."
    if "mcnemar" in comparison:
        found = comparison["mcnemar"]
        yield ""
        yield (
            f"McNemar on one image per lesion (n = {found['n']:,}): only {a} right {found['only_a']}, only {b} right "
            f"{found['only_b']}, exact p = {p_value(found['p'])}."
        )


def _seeds(result: dict[str, Any]) -> Iterator[str]:
    sides = [side for side, models in result["models"].items() if len(models) > 1]
    yield "\n## Spread over seeds: least to greatest (sd)\n"
    yield "| metric | " + " | ".join(f"{side}, {len(result['models'][side])} seeds" for side in sides) + " |"
    yield "|---|" + "---:|" * len(sides)
    for name in result["sides"][sides[0]]:
        cells = []
        for found in (result["sides"][side][name] for side in sides):
            fine = found["value"] is not None
            cells.append(f"{found['min']:.3f} to {found['max']:.3f} ({found['sd']:.4f})" if fine else "n/a")
        yield f"| {title(name)} | {' | '.join(cells)} |"


def _shares(shares: dict[str, Any]) -> Iterator[str]:
    yield f"\n## Share of the gain of B over A that {PARTIAL} alone carries\n"
    yield f"| metric | B - A | {PARTIAL} - A | share |"
    yield "|---|---:|---:|---:|"
    for name, found in shares.items():
        gains = [Number.read(found[key]).text(4, signed=True) for key in ("gain", "partial_gain")]
        share = found["share"]
        shown = Number.read(share).text(0, percent=True) if share["value"] is not None else share["why"]
        yield f"| {title(name)} | {' | '.join(gains)} | {shown} |"


def title(name: str) -> str:
    """A metric's name with an arrow to its better side."""
    return f"{cell(NAMES.get(name, name))} {DOWN if name in ERRORS else UP}"


def p_value(p: float | None) -> str:
    """Three decimals, ``<0.001`` below."""
    return "n/a" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
