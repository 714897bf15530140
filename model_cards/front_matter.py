"""The YAML on top of a model card: what the Hub searches and shows, taken from the report."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from model_cards.facts import is_fitted, only_imported
from model_cards.report_view import ReportNode, given, num, number, optional, raw

# Licence ids the Hub knows without a name and a link; any other is written as "other" with its own name.
HUB_LICENSES = frozenset(
    f"{family}-{version}"
    for family, versions in {
        "apache": ["2.0"],
        "bsd": ["2-clause", "3-clause"],
        "cc0": ["1.0"],
        "cc-by": ["2.0", "3.0", "4.0"],
        "cc-by-sa": ["3.0", "4.0"],
        "cc-by-nc": ["2.0", "3.0", "4.0"],
        "cc-by-nd": ["4.0"],
        "cc-by-nc-nd": ["3.0", "4.0"],
        "cc-by-nc-sa": ["2.0", "3.0", "4.0"],
        "cdla-permissive": ["2.0"],
        "agpl": ["3.0"],
        "gpl": ["3.0"],
        "lgpl": ["3.0"],
        "mpl": ["2.0"],
    }.items()
    for version in versions
) | {"mit", "odbl", "odc-by", "openrail", "unlicense", "other", "unknown"}
TAGS = ["medical", "dermatology", "skin-lesion", "calibration", "uncertainty", "research-only", "lesion-suite"]
# Of a model with fitted trust.
TRUST_TAGS = ["conformal-prediction", "out-of-distribution-detection", "selective-classification"]
METRICS = ["accuracy", "balanced_accuracy", "f1", "roc_auc", "brier_score"]

# (metric type on the Hub, its name, path below evaluation.test)
INDEX = (
    ("accuracy", "Accuracy", ("discrimination", "accuracy")),
    ("balanced_accuracy", "Balanced accuracy", ("discrimination", "balanced_accuracy")),
    ("f1", "Macro F1", ("discrimination", "macro_f1")),
    ("f1", "Weighted F1", ("discrimination", "weighted_f1")),
    ("roc_auc", "Macro AUROC", ("discrimination", "auroc_macro")),
    ("roc_auc", "AUROC of p_malignant", ("discrimination", "auroc_malignant")),
    ("nll", "Negative log-likelihood, calibrated", ("calibration", "after", "nll")),
    ("brier_score", "Brier score, calibrated", ("calibration", "after", "brier")),
    ("expected_calibration_error", "Expected calibration error, calibrated", ("calibration", "after", "ece")),
)


# The same below trust_evaluation, where there is one; sets are null where the gate turned every image away.
TRUST_INDEX = (
    ("coverage", "Coverage of the prediction sets, by lesion", ("sets", "overall", "coverage")),
    ("aurc", "Area under the risk-coverage curve", ("selective", "aurc")),
)


def front_matter(report: ReportNode, files: Sequence[str]) -> str:
    """The YAML block of a model card, without its fences.

    Args:
        report: the whole report.
        files: the folder's files; a ``LICENSE`` among them is linked when the Hub does not know the licence's id.

    Raises:
        MissingNumberError: a value that the block shows is missing.
    """
    model = report["model"]
    tested = not only_imported(report) and "test" in report["evaluation"]
    tags = [*TAGS, *(TRUST_TAGS if is_fitted(report) else []), *(str(tag) for tag in optional(model, "tags"))]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        **license_values(model, files),
        base_model=base_models(report),
        datasets=trained_on(report),
        metrics=METRICS if tested else None,
        tags=tags,
        model_name=str(model["name"]),
        eval_results=eval_results(report) if tested else None,
    )
    return data.to_yaml()


def license_values(model: ReportNode, files: Sequence[str]) -> dict[str, Any]:
    """``license``; where the Hub does not know its id ``license_name`` and ``license_link``; none if not stated."""
    if not given(model["license"]):
        return {}
    license_id = str(model["license"])
    if license_id in HUB_LICENSES:
        return {"license": license_id}
    link = "LICENSE" if "LICENSE" in files else None
    return {"license": "other", "license_name": slug(license_id), "license_link": link}


def hub_ids(names: Sequence[Any]) -> list[str]:
    """Those names that can be ids of the Hub, ``ORG/NAME``; the others are in the text alone."""
    found = []
    for name in names:
        if not isinstance(name, str) or name.count("/") != 1:
            continue
        with contextlib.suppress(HFValidationError):
            validate_repo_id(name)
            found.append(name)
    return found


def base_models(report: ReportNode) -> str | list[str] | None:
    """The Hub ids of what the weights started from: one as a text, several as a list, None where there is none."""
    names = raw(report["model"]["base_model"])
    ids = hub_ids(names if isinstance(names, list) else [names])
    return ids[0] if len(ids) == 1 else ids or None


def trained_on(report: ReportNode) -> list[str] | None:
    """The Hub id of the dataset that the weights were trained on, the Hub's ``datasets``; None where it has none."""
    if "imported" in report:
        return None
    dataset = report["trained_on"] if "trained_on" in report else report["provenance"]["dataset"]
    return hub_ids([dataset_name(dataset)]) or None


def dataset_name(dataset: ReportNode) -> str:
    """The repository that a dataset was published to, or else the name that it was read by."""
    return str(dataset["repo_id"] if "repo_id" in dataset else dataset["name"])


def dataset_type(report: ReportNode) -> str:
    """The Hub id of the dataset of the results, for the ``model-index``; of a local one its kind, ``parquet``."""
    return next(iter(hub_ids([dataset_name(report["provenance"]["dataset"])])), "parquet")


def eval_results(report: ReportNode) -> list[EvalResult]:
    """The test results of the ``model-index``; a metric that is not defined is left out."""
    dataset, test = report["provenance"]["dataset"], report["evaluation"]["test"]
    places = [(kind, name, test, path) for kind, name, path in INDEX]
    if "trust_evaluation" in report:
        places += [(kind, name, report["trust_evaluation"], path) for kind, name, path in TRUST_INDEX]
    rows = []
    for kind, name, node, path in places:
        for key in path:
            node = node[key] if given(node) else node
        if not given(node) or not given(node["value"]):
            continue
        interval = num(node).partition(" (")[2].rstrip(")")
        rows.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset_type(report),
                dataset_name=str(dataset["name"]),
                dataset_config=str(dataset["config_name"]),
                dataset_split="test",
                metric_type=kind,
                metric_value=round(number(node["value"]), 4),
                metric_name=f"{name}, 95 % interval {interval}" if given(node["low"]) else name,
            )
        )
    return rows


def eval_result_file(report: ReportNode) -> str | None:
    """The content of ``.eval_results/*.yaml``: the Hub's newer form of the ``model-index``, one entry per metric.

    The form names a dataset of the Hub, so that there is none for a model that was tested on a local one.
    """
    if only_imported(report) or "test" not in report["evaluation"]:
        return None
    dataset, test = report["provenance"]["dataset"], report["evaluation"]["test"]
    ids = hub_ids([dataset_name(dataset)])
    if not ids:
        return None
    repo = str(report["model"]["repo_id"]) if "repo_id" in report["model"] else None
    entries = []
    for _, name, path in INDEX:
        node = test
        for key in path:
            node = node[key] if given(node) else node
        if not given(node) or not given(node["value"]):
            continue
        interval = num(node).partition(" (")[2].rstrip(")")
        notes = [name, f"config {dataset['config_name']}", "split test"]
        entries.append(
            EvalResultEntry(
                dataset_id=ids[0],
                task_id=path[-1],
                value=round(number(node["value"]), 4),
                date=str(report["provenance"]["created"]),
                source_url=f"https://huggingface.co/{repo}/blob/main/REPORT.md" if repo else None,
                source_name="REPORT.md" if repo else None,
                notes=", ".join([*notes, *([f"95 % interval {interval}"] if given(node["low"]) else [])]),
            )
        )
    rows = eval_result_entries_to_yaml(entries)
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=100_000) if rows else None


def slug(name: str) -> str:
    """A name as the Hub writes one: ``CC BY-NC 4.0 (own)`` -> ``cc-by-nc-4.0-own``."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
