"""The page about a model as HTML: what it is, where it comes from, whether its files are unchanged, its figures."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any

from classifier import Classifier
from html_band import shape
from model_folder import MOST_PROBLEMS, Check

# What the parts of a Creative Commons licence's name ask for.
_CONDITIONS = {"by": "attribution", "nc": "non-commercial", "sa": "share alike", "nd": "no derivatives"}


def about(classifier: Classifier, found: Check) -> str:
    """What a model is, and whether its files are unchanged."""
    return f'<section class="panel about">{_facts(classifier, classifier.report)}{_verdict(found)}</section>'


def day(moment: Any) -> str | None:
    """Make "21 November 2026" of "2026-11-21T01:45:01Z"; what is no date stays as it is."""
    try:
        found = datetime.fromisoformat(str(moment))
    except ValueError:
        return str(moment) if moment else None
    return f"{found.day} {found:%B %Y}"


def licence(name: Any) -> str | None:
    """Make "CC BY-NC 4.0 (attribution, non-commercial)" of "cc-by-nc-4.0", and "Apache 2.0" of "apache-2.0"."""
    if not name:
        return None
    kind, *parts = str(name).split("-")
    version = parts.pop() if parts and parts[-1][:1].isdigit() else ""
    if kind != "cc" or not parts or not set(parts) <= set(_CONDITIONS):
        words = [part.upper() if len(part) <= 3 else part.capitalize() for part in (kind, *parts)]
        return " ".join(filter(None, [*words, version]))
    asked = ", ".join(_CONDITIONS[part] for part in parts)
    return f"CC {'-'.join(parts).upper()} {version} ({asked})"


def _facts(classifier: Classifier, report: dict[str, Any]) -> str:
    model, provenance = report.get("model") or {}, report.get("provenance") or {}
    size = getattr(classifier.model, "num_parameters", None)
    rows = {
        "Model": model.get("title") or classifier.title,
        "From": "a folder of this machine" if classifier.source.is_folder else classifier.source.location,
        "Version": model.get("version"),
        "Revision": classifier.source.revision,
        "Commit on the Hub": classifier.commit,
        "Made": day(provenance.get("created")),
        "Lesion Suite": provenance.get("suite_version") or (provenance.get("packages") or {}).get("lesion-suite"),
        "Code at commit": provenance.get("git_commit"),
        "Architecture": f"{type(classifier.model).__name__}, {model.get('backbone') or ''}".rstrip(", "),
        "Parameters": f"{size() / 1e6:.1f} million" if callable(size) else None,
        "Classes": ", ".join(classifier.long_names.values()),
        "Licence": licence(model.get("license")),
        "Trust": "fitted: temperature, gate, prediction sets and bands"
        if classifier.trust_is_fitted
        else "never fitted: it cannot decline",
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows.items() if value)
    return f'<h3>What it is</h3><dl class="facts-list">{items}</dl>'


def _verdict(found: Check) -> str:
    words = {
        "matches": ("good", "tick", "Unchanged: every file is what its manifest says"),
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


def report_figures(figures: list[tuple[str, str]]) -> str:
    """The report's figures, each to be enlarged by a click; nothing where there are none."""
    items = "".join(
        f'<figure><button type="button" data-enlarge aria-label="Enlarge: {escape(caption)}"><img src="{uri}" '
        f'alt="{escape(caption)}" loading="lazy"></button><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, uri in figures
    )
    if not items:
        return ""
    return (
        '<section class="panel about"><h3>Figures of its report</h3><p class="small">Choose one to enlarge it.</p>'
        f'<div class="figures" id="figures">{items}</div></section>'
    )
