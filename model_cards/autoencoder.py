"""The card of an autoencoder: what it keeps of an image, and what it leaves in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from model_cards.facts import all_drawn, any_drawn, chosen_on, groups_known, known_limits
from model_cards.front_matter import dataset_type, license_values, trained_on
from model_cards.report_view import ReportNode, given, num, number, optional

TASK = "reconstruction"
TAGS = ["medical", "dermatology", "skin-lesion", "autoencoder", "research-only", "lesion-suite"]


def is_autoencoder(report: ReportNode) -> bool:
    """Whether a report is of an autoencoder."""
    return "model" in report and "task" in report["model"] and str(report["model"]["task"]) == TASK


def autoencoder_values(report: ReportNode, files: Sequence[str]) -> dict[str, Any]:
    """What the templates read beside the report itself.

    Raises:
        MissingNumberError: a value that the card shows is missing.
    """
    splits = list(report["evaluation"])
    split = "test" if "test" in splits else splits[0]
    sources = [str(name) for name in report["provenance"]["dataset"]["sources"]]
    per_class = report["provenance"]["dataset"]["splits"]["train"]["per_class"]
    return {
        "front_matter": front_matter(report, files),
        "split": split,
        "tested": "test" in splits,
        "elsewhere": False,
        "chosen_on": chosen_on(report),
        **groups_known(report),
        "imported": False,
        "shared_sources": [],
        "labels": [{"name": name} for name in per_class],
        "drawn": {"any": any_drawn(sources), "all": all_drawn(sources)},
        "source_limits": known_limits(sources),
    }


def front_matter(report: ReportNode, files: Sequence[str]) -> str:
    """The YAML block of the card, without its fences."""
    model = report["model"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        **license_values(model, files),
        datasets=trained_on(report),
        metrics=["psnr", "ssim"] if "test" in report["evaluation"] else None,
        tags=[*TAGS, *(str(tag) for tag in optional(model, "tags"))],
        model_name=str(model["name"]),
        eval_results=eval_results(report) if "test" in report["evaluation"] else None,
    )
    return data.to_yaml()


def eval_results(report: ReportNode) -> list[EvalResult]:
    """PSNR and SSIM of the test split, for the ``model-index``."""
    dataset, test = report["provenance"]["dataset"], report["evaluation"]["test"]
    rows = []
    for kind, name in (("psnr", "PSNR (dB)"), ("ssim", "SSIM")):
        interval = num(test[kind]).partition(" (")[2].rstrip(")")
        rows.append(
            EvalResult(
                task_type="image-feature-extraction",
                dataset_type=dataset_type(report),
                dataset_name=str(dataset["name"]),
                dataset_config=str(dataset["config_name"]),
                dataset_split="test",
                metric_type=kind,
                metric_value=round(number(test[kind]["value"]), 4),
                metric_name=f"{name}, 95 % interval {interval}" if given(test[kind]["low"]) else name,
            )
        )
    return rows
