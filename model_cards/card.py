"""The model card and the full report: pure functions of ``report.json`` and the names of the folder's files.

``README.md`` is what a reader needs in five minutes; ``REPORT.md`` beside it holds everything else. The same report
always gives the same texts, byte for byte. That is what lets ``verify`` render it again and name the
number that differs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets_scripts.command import UserError, read_json
from model_cards.autoencoder import autoencoder_values, is_autoencoder
from model_cards.facts import counted_as_one, facts_of, is_fitted, known_limits, only_imported, sources_of
from model_cards.front_matter import eval_result_file, front_matter
from model_cards.report_view import FILTERS, TESTS, MissingNumberError, ReportNode, given, optional, raw

CARD = "README.md"
DETAILS = "REPORT.md"
REPORT = "report.json"
RESULTS = ".eval_results/lesion_suite.yaml"
REPORT_VERSION = 1
# What a report may be of, beside one model: its pooled folds, or images that a model has scored.
CROSS_VALIDATION = "cross_validation"
SCORING = "scoring"
# Goes up when the text of the templates changes: verify then compares an older card line by line, not as a whole.
CARD_LAYOUT = 10
# Groups that a doctor should see, in the order in which they are named.
MALIGNANT_GROUPS = ("malignant", "premalignant")
NOT_STATED = "not stated"
IMAGE = "takes one image of a skin lesion"
KNOWN = "what is known of the patient and of the lesion's place"
READS = {
    ("pixel_values",): IMAGE,
    ("metadata",): f"takes no image, only {KNOWN},",
    ("pixel_values", "metadata"): f"{IMAGE}, and {KNOWN},",
}
# What an image processor may do before the resize, by its setting in the report.
STEPS = {
    "do_hair_removal": "hair removal",
    "do_lesion_crop": "lesion crop",
    "do_colour_constancy": "colour constancy",
}
AUTOENCODER = {CARD: "autoencoder.md.j2", DETAILS: "autoencoder_details.md.j2"}
TEMPLATES = Path(__file__).parent / "templates"


def read_report(folder: Path) -> dict[str, Any]:
    """The parsed ``report.json`` of a folder.

    Raises:
        UserError: absent, not JSON, or of a newer layout.
    """
    path = Path(folder) / REPORT
    try:
        report = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {REPORT}: give the folder of a trained and evaluated model") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; evaluate the model again") from error
    version = report.get("schema_version", 0)
    if not isinstance(version, int) or version > REPORT_VERSION:
        raise UserError(f"{path} has layout {version!r}, this reads up to {REPORT_VERSION}: update lesion-suite")
    return report


def report_kind(report: dict[str, Any]) -> str:
    """``model``, ``CROSS_VALIDATION`` or ``SCORING``."""
    return SCORING if "scored" in report else str(report.get("kind", "model"))


def render(report: dict[str, Any], files: Sequence[str]) -> dict[str, str]:
    """The texts of the model card and of the full report.

    Args:
        report: the parsed ``report.json``.
        files: relative posix paths of the folder's files; the figures that the report names must be among them.

    Returns:
        File name -> Markdown that ends in one newline: ``CARD``, with YAML front matter, and ``DETAILS``. An imported
        model that was not evaluated has ``CARD`` alone. Where the dataset is on the Hub, also ``RESULTS``.

    Raises:
        MissingNumberError: a value that the texts show is missing; the message names its path.
        UserError: the report names a figure that is not in the folder.
    """
    node = ReportNode(report)
    if is_autoencoder(node):
        return filled(AUTOENCODER, autoencoder_facts(node, files))
    facts = {
        "report": node,
        "layout": CARD_LAYOUT,
        "front_matter": front_matter(node, files),
        "load_from": load_from(node),
        "labels": label_rows(node),
        "inputs": input_names(node),
        "reads": READS[tuple(input_names(node))],
        "steps": steps_before(node),
        "malignant": [row["name"] for row in label_rows(node) if row["group"] in MALIGNANT_GROUPS],
        "grouped": any(row["group"] != NOT_STATED for row in label_rows(node)),
        "at_risk": " or ".join(
            [name for name in MALIGNANT_GROUPS if name in {row["group"] for row in label_rows(node)}]
            or MALIGNANT_GROUPS
        ),
    }
    if only_imported(node):
        facts |= {"fitted": False, "elsewhere": True, "source_limits": known_limits(sources_of(node))}
        return filled({CARD: "imported.md.j2"}, facts)
    facts |= facts_of(node)
    facts |= {
        "recipe": "" if facts["imported"] else yaml_text(raw(node["provenance"]["recipe"])),
        "figures": check_figures(node, files),
        "corrupted": check_figures(node["robustness"], files) if "robustness" in node else [],
        "explained": check_figures(node["explanations"], files) if "explanations" in node else [],
    }
    results = eval_result_file(node)
    return filled({CARD: "card.md.j2", DETAILS: "details.md.j2"}, facts) | ({RESULTS: results} if results else {})


def autoencoder_facts(report: ReportNode, files: Sequence[str]) -> dict[str, Any]:
    """What the templates of an autoencoder read; raises as :func:`render`."""
    return {
        "report": report,
        "layout": CARD_LAYOUT,
        "load_from": load_from(report),
        "recipe": yaml_text(raw(report["provenance"]["recipe"])),
        "figures": check_figures(report, files),
        **autoencoder_values(report, files),
    }


def filled(templates: dict[str, str], facts: dict[str, Any]) -> dict[str, str]:
    """File name -> its template filled in; blank lines of parts that are left out become one."""
    texts = {name: environment().get_template(template).render(**facts) for name, template in templates.items()}
    return {name: re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n" for name, text in texts.items()}


def load_from(report: ReportNode) -> str:
    """What the examples load: the repository that the model was published to, or ``ORG/`` and its name before that."""
    model = report["model"]
    return str(model["repo_id"]) if "repo_id" in model else f"ORG/{model['name']}"


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with our filters; a name that a template misspells is an error."""
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    jinja.filters.update(FILTERS, counted_as_one=counted_as_one)
    jinja.tests.update(TESTS)
    return jinja


def yaml_text(value: Any) -> str:
    """YAML with sorted keys, one line a value."""
    return yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=100_000).strip()


def input_names(report: ReportNode) -> list[str]:
    """What the model takes: ``pixel_values``, ``metadata``, or both (reports from before metadata: pixels)."""
    return [str(name) for name in optional(report["model"], "inputs")] or ["pixel_values"]


def label_rows(report: ReportNode) -> list[dict[str, str]]:
    """Short name, long name and malignancy group of each class, in the order of the logits."""
    return [
        {
            "name": str(label["name"]),
            "long_name": str(label["long_name"]),
            "group": str(label["group"]) if given(label["group"]) else NOT_STATED,
        }
        for label in report["model"]["labels"]
    ]


def steps_before(report: ReportNode) -> str:
    """Which steps the image processor takes before the resize, ``hair removal off, ...``; empty where it is not known.

    Trust holds for one preprocessing only, so a report with fitted trust has its settings; a missing setting is off.
    """
    settings = raw(optional(report["trust"]["fitted_for"], "preprocessing")) if is_fitted(report) else {}
    if "do_resize" not in settings:
        return ""
    return ", ".join(f"{name} {'on' if settings.get(switch) else 'off'}" for switch, name in STEPS.items())


def check_figures(report: ReportNode, files: Sequence[str]) -> list[dict[str, str]]:
    """File, caption and alternative text of each figure of the report, or of a section of it.

    Raises:
        UserError: a figure is not among the files.
    """
    figures = []
    for figure in report["figures"]:
        file, caption = str(figure["file"]), str(figure["caption"])
        if file not in files:
            raise UserError(f"report.json names {file}, which is not in the folder: draw the figures again")
        alt = PurePosixPath(file).stem.replace("_", " ")
        figures.append({"file": file, "caption": caption.replace("*", "\\*"), "alt": alt})
    return figures


__all__ = [
    "CARD",
    "CARD_LAYOUT",
    "CROSS_VALIDATION",
    "DETAILS",
    "REPORT",
    "SCORING",
    "MissingNumberError",
    "read_report",
    "render",
    "report_kind",
]
