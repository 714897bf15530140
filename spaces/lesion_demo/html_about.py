"""The page about a model as HTML: what it is, where it comes from, whether its files are unchanged, its figures."""

from __future__ import annotations

from html import escape
from typing import Any

from classifier import Classifier
from html_answer import shape
from model_folder import MOST_PROBLEMS, Check


def about(classifier: Classifier, found: Check, report: dict[str, Any], figures: list[tuple[str, str]]) -> str:
    """Everything about a model but its card."""
    return f'<section class="panel about">{_facts(classifier, report)}{_verdict(found)}</section>' + (
        f'<section class="panel about more"><h3>Figures of its report</h3>{_figures(figures)}</section>'
        if figures
        else ""
    )


def _facts(classifier: Classifier, report: dict[str, Any]) -> str:
    model, provenance = report.get("model") or {}, report.get("provenance") or {}
    size = getattr(classifier.model, "num_parameters", None)
    rows = {
        "Model": model.get("title") or classifier.title,
        "From": "a folder of this machine" if classifier.source.is_folder else classifier.source.location,
        "Revision": classifier.source.revision,
        "Commit on the Hub": classifier.commit,
        "Made": provenance.get("created"),
        "Code at commit": provenance.get("git_commit"),
        "Architecture": f"{type(classifier.model).__name__}, {model.get('backbone') or ''}".rstrip(", "),
        "Parameters": f"{size() / 1e6:.1f} million" if callable(size) else None,
        "Classes": ", ".join(classifier.long_names.values()),
        "Licence": model.get("license"),
        "Trust": "fitted: temperature, gate, prediction sets and bands"
        if classifier.trust_is_fitted
        else "never fitted: it cannot decline",
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows.items() if value)
    return f'<h3>What it is</h3><dl class="facts-list">{items}</dl>'


def _verdict(found: Check) -> str:
    words = {
        "matches": ("good", "low", "Unchanged: every file is what its manifest says"),
        "differs": ("bad", "high", "Changed: files differ from the manifest"),
        "unknown": ("open", "none", "Cannot be checked"),
    }
    kind, sign, said = words[found.verdict]
    size = f"{found.files} files, {found.size / 1e6:.1f} MB, compared by SHA-256." if found.files else ""
    more = len(found.problems) - MOST_PROBLEMS
    problems = [*found.problems[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (
        f'<h3 style="margin-top:22px">Are its files unchanged?</h3><p class="verdict {kind}" id="manifest" '
        f'data-verdict="{found.verdict}">{shape(sign)}{said}</p><p class="small">{size}</p>'
        + (f'<ul class="problems">{listed}</ul>' if listed else "")
    )


def _figures(figures: list[tuple[str, str]]) -> str:
    items = "".join(
        f'<figure><img src="{uri}" alt="{escape(caption)}" loading="lazy"><figcaption>{escape(caption)}'
        "</figcaption></figure>"
        for caption, uri in figures
    )
    return f'<div class="figures" id="figures">{items}</div>'
