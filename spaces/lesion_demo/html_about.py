"""The page about a model as HTML: how it was tested, what it is, whether its files are unchanged, its figures."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any

from classifier import Classifier
from html_band import shape
from measured import Recognised, attribution, measured, recognised, share_answered, sources, subgroups
from model_folder import MOST_PROBLEMS, Check
from words import BAND_TITLES, in_a_row, of_100, what_was_measured

# What the parts of a Creative Commons licence's name require.
_CONDITIONS = {"by": "attribution", "nc": "non-commercial", "sa": "share alike", "nd": "no derivatives"}


def about(classifier: Classifier, found: Check) -> str:
    """On whom a model was tested and what it found there, what it is, and whether its files are unchanged."""
    body = f"{_tested(classifier)}{_facts(classifier, classifier.report)}{_verdict(found, classifier)}"
    return f'<section class="panel about">{body}</section>'


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
    conditions = ", ".join(_CONDITIONS[part] for part in parts)
    return f"CC {'-'.join(parts).upper()} {version} ({conditions})"


def _tested(classifier: Classifier) -> str:
    """Population, sensitivity and specificity, as the report has them; that nothing is known, where it has none."""
    found = recognised(classifier)
    if found is None:
        return (
            '<h3>How it was tested</h3><p id="tested">This model comes with no test results: it is not known how often '
            "it is right, nor on whom.</p>"
        )
    name = classifier.at_risk_name
    of = f" of {found.lesions:,} lesions" if found.lesions else ""
    where = f" from {in_a_row(sources(classifier))}" if sources(classifier) else ""
    rows = {
        "Tested on": f"{found.images:,} images{of}{where}, the {found.split} split. {found.at_risk:,} of them "
        f"({of_100(found.at_risk / found.images)}) are {name}.",
        "Sensitivity": f"{of_100(found.sensitivity)}: of {found.at_risk:,} {name} images it called {found.found:,} "
        f"{name}.",
        "Specificity": f"{of_100(found.specificity)}: of {found.others:,} benign images it called {found.cleared:,} "
        "benign.",
    }
    answered = share_answered(classifier)
    if answered is not None:
        rows["Answered"] = (
            f"{of_100(answered)} test lesions; the model declined the others. Sensitivity and specificity are as if it "
            "had answered all."
        )
    for band in ("low", "moderate"):
        rating = measured(classifier, band)
        if rating is not None:
            rows[f"Rating “{BAND_TITLES[band].lower()}”"] = what_was_measured(rating, name)
    rows |= _population(classifier, found)
    return f'<h3>How it was tested</h3><dl class="facts-list" id="tested">{_items(rows)}</dl>'


def _population(classifier: Classifier, found: Recognised) -> dict[str, str]:
    """Whose images it was tested on, and what is not known of them."""
    rows = {}
    for column in ("age", "sex"):
        groups = subgroups(classifier, found.split, column)
        rows[f"Test images by {column}"] = ", ".join(f"{value}: {amount:,}" for value, amount in groups)
    if not any(subgroups(classifier, found.split, column) for column in ("skin_tone", "fitzpatrick")):
        rows["Skin tone"] = "Results by skin tone were not measured."
    rows["Source of the images"] = "; ".join(attribution(classifier))
    return rows


def _items(rows: dict[str, Any]) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in rows.items() if value
    )


def _facts(classifier: Classifier, report: dict[str, Any]) -> str:
    model, provenance = _map(report.get("model")), _map(report.get("provenance"))
    size = getattr(classifier.model, "num_parameters", None)
    rows = {
        "Model": model.get("title") or classifier.title,
        "Version": model.get("version"),
        "Made": day(provenance.get("created")),
        "Classes": ", ".join(classifier.long_names.values()),
        "Licence": licence(model.get("license")),
        "Trust": "fitted: temperature, gate, prediction sets and ratings"
        if classifier.trust_is_fitted
        else "never fitted: it cannot decline",
        "Architecture": f"{type(classifier.model).__name__}, {model.get('backbone') or ''}".rstrip(", "),
        "Parameters": f"{size() / 1e6:.1f} million" if callable(size) else None,
    }
    return f'<h3 class="next">What it is</h3><dl class="facts-list">{_items(rows)}</dl>'


def _origin(classifier: Classifier) -> str:
    """Where its files come from, for who wants to find them again; folded away."""
    provenance = _map(classifier.report.get("provenance"))
    rows = {
        "From": "a folder of this machine" if classifier.source.is_folder else classifier.source.location,
        "Revision": classifier.source.revision,
        "Commit on the Hub": classifier.commit,
        "Lesion Suite": provenance.get("suite_version") or _map(provenance.get("packages")).get("lesion-suite"),
        "Code at commit": provenance.get("git_commit"),
    }
    listed = f'<dl class="facts-list">{_items(rows)}</dl>'
    return f'<details class="more"><summary>Where its files come from</summary>{listed}</details>'


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _verdict(found: Check, classifier: Classifier) -> str:
    words = {
        "matches": ("good", "tick", "Unchanged: every file is what its manifest says"),
        "differs": ("bad", "high", "Changed: files differ from the manifest"),
        "unknown": ("open", "none", "Cannot be checked"),
    }
    kind, sign, text = words[found.verdict]
    size = f"{found.files} files, {found.size / 1e6:.1f} MB, compared by SHA-256." if found.files else ""
    more = len(found.problems) - MOST_PROBLEMS
    problems = [*found.problems[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (
        f'<h3 class="next">Are its files unchanged?</h3><p class="verdict {kind}" id="manifest" '
        f'data-verdict="{found.verdict}">{shape(sign)}{text}</p><p class="small">{size}</p>'
        + (f'<ul class="problems">{listed}</ul>' if listed else "")
        + _origin(classifier)
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
