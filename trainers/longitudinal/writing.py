"""The output folder of an analysis: tables as CSV and Markdown, ``report.json``, charts and a README."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets_scripts.sources.tables import TableWriter
from trainers.longitudinal.analysis import DEFAULT, METHODS, Analysis, Effect
from trainers.longitudinal.figures import draw_all
from trainers.longitudinal.patients import percent
from trainers.metrics.number import Number

SCHEMA_VERSION = 1
NOTICE = (
    "**Not a medical device.** Research software: it must not be used to choose, change or stop a treatment. Talk to "
    "the doctor who treats you, whatever a program says about a table of numbers."
)
MOST_SENTENCES = 60  # of patients' sentences in the README
LIBRARIES = ("statsmodels", "scipy", "numpy", "matplotlib")
EFFECT_COLUMNS = (
    "treatment",
    "baseline",
    "method",
    "default",
    "estimate",
    "low",
    "high",
    "confidence",
    "standard_error",
    "degrees_of_freedom",
    "p",
    "p_holm",
    "patients",
    "days",
    "withheld",
)
PATIENT_COLUMNS = (
    "patient",
    "treatment",
    "days_baseline",
    "days_treatment",
    "difference",
    "standard_error",
    "shrunken",
    "low",
    "high",
    "p_better",
    "p_worse",
    "verdict",
    "blup",
    "sentence",
)


def write_all(analysis: Analysis, folder: Path) -> None:
    """Write every file of the analysis into a folder that is there and empty."""
    effects, patients = effect_rows(analysis), patient_rows(analysis)
    write_table(folder / "effects.csv", EFFECT_COLUMNS, effects)
    write_table(folder / "patients.csv", PATIENT_COLUMNS, patients)
    (folder / "effects.md").write_text(effects_markdown(analysis), encoding="utf-8")
    figures = draw_all(analysis, folder)
    report = report_of(analysis, effects, patients, figures)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(readme(analysis, figures), encoding="utf-8")


def effect_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The effect table, one row per treatment and method, in points."""
    return [
        {
            "treatment": effect.treatment,
            "baseline": analysis.study.treatments[0],
            "method": effect.method,
            "default": effect.method == DEFAULT,
            "estimate": effect.found.estimate,
            "low": effect.found.low,
            "high": effect.found.high,
            "confidence": analysis.settings.confidence,
            "standard_error": effect.found.standard_error,
            "degrees_of_freedom": effect.found.freedom,
            "p": effect.found.p,
            "p_holm": effect.p_holm,
            "patients": effect.patients,
            "days": effect.days,
            "withheld": effect.found.withheld or None,
        }
        for effect in analysis.effects
    ]


def patient_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The patients' table, one row per patient and treatment, in points."""
    rows = []
    for row in analysis.patients:
        mean, low, high = row.shrunken or (None, None, None)
        given = {**vars(row), "shrunken": mean, "low": low, "high": high, "verdict": row.verdict or None}
        rows.append({name: given[name] for name in PATIENT_COLUMNS})
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV; what is withheld is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)


def effects_markdown(analysis: Analysis) -> str:
    """The effect table as Markdown, with what it means."""
    confidence = f"{100 * analysis.settings.confidence:g} %"
    lines = [
        f"| treatment | method | change, points ({confidence} interval) | p | p, Holm | patients | days |",
        "|---|---|---|---|---|---|---|",
    ]
    for effect in analysis.effects:
        bold = "**" if effect.method == DEFAULT else ""
        cells = [
            safe(effect.treatment),
            METHODS[effect.method],
            shown(effect, analysis.decimals),
            p_text(effect.found.p),
            p_text(effect.p_holm),
            str(effect.patients),
            f"{effect.days:,}",
        ]
        lines.append("| " + " | ".join(f"{bold}{cell}{bold}" if cell else "" for cell in cells) + " |")
    lines += [
        "",
        f"Change of severity against {safe(analysis.study.treatments[0])}; below 0 is lower, better. The default takes "
        "each patient's own difference once and its spread over patients, so it holds with days that resemble each "
        "other and patients who respond differently. The random intercept, as published, takes every day for "
        "independent and every patient's response for the same. Holm's p is adjusted for the number of treatments.",
    ]
    return "\n".join(lines) + "\n"


def shown(effect: Effect, decimals: int) -> str:
    """``-4.1 (-6.0 to -2.2)``, or why it is withheld."""
    found = effect.found
    if found.estimate is None:
        return f"withheld: {safe(found.withheld)}"
    return Number(found.estimate, found.low, found.high).text(decimals, signed=True)


def p_text(p: float | None) -> str:
    """A p value with two digits, ``< 0.0001`` at least; empty for None."""
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def safe(text: str) -> str:
    """Text that may stand in a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " ")


def report_of(
    analysis: Analysis, effects: list[dict[str, Any]], patients: list[dict[str, Any]], figures: list[dict[str, str]]
) -> dict[str, Any]:
    """Every number, JSON-ready."""
    study = analysis.study
    spreads = {
        name: None
        if found is None
        else {
            "sd_of_own_effects": found.spread,
            "low": found.spread_low,
            "high": found.spread_high,
            "p_better_of_a_further_patient": found.next_better,
        }
        for name, found in analysis.spreads.items()
    }
    report = {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE.replace("**", ""),
        "data": {
            "file": study.name,
            "sha256": study.sha256,
            "severity_is": study.meaning or None,
            "patients": len(study.patients),
            "days": len(study.day),
            "baseline": study.treatments[0],
            "treatments": list(study.treatments[1:]),
        },
        "settings": asdict(analysis.settings),
        "warnings": analysis.warnings,
        "methods": METHODS,
        "effects": effects,
        "patients": patients,
        "differences_between_patients": spreads,
        "day_noise": None if analysis.noise is None else {"rho": analysis.noise.rho, "sd": analysis.noise.sd},
        "diagnostics": analysis.diagnostics,
        "figures": figures,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    return _finite(report)


def readme(analysis: Analysis, figures: list[dict[str, str]]) -> str:
    """The folder's README: notice, warnings, effects, charts, patients, checks."""
    study = analysis.study
    lines = [f"# Is the treatment working? {safe(study.name)}", "", NOTICE, ""]
    if analysis.warnings:
        lines += ["## Read this first", "", *(f"- {safe(text)}." for text in analysis.warnings), ""]
    lines += [
        "## Effects",
        "",
        f"{len(study.patients)} patients, {len(study.day):,} days with a severity"
        + (f", {study.missed:,} rows without one left out" if study.missed else "")
        + ".",
        "",
        effects_markdown(analysis),
    ]
    for figure in figures:
        lines += [f"![{figure['caption']}]({figure['file']})", "", f"*{figure['caption']}*", ""]
    lines += ["## Patients", "", *_patients(analysis), "## Checks", "", *_checks(analysis)]
    lines += [
        "",
        "`effects.csv`, `patients.csv` and `report.json` hold every number with all digits; `report.json` also the "
        "checksum of the table and the versions of the libraries.",
    ]
    return "\n".join(lines) + "\n"


def _patients(analysis: Analysis) -> list[str]:
    settings = analysis.settings
    better = f"lower by more than {settings.relevant:g} points" if settings.relevant else "lower"
    lines = [
        f"Better means a probability of at least {settings.sure:g} that the patient's own severity is {better} in the "
        "long run; worse is the same of higher. Where severity drifts during the baseline already they are called "
        "lower and higher: what was seen, with no word on the treatment. "
        "The estimate is drawn towards that of all patients, the more the less "
        "the patient's days say; where the patient's own days point the other way, the sentence says both. It never "
        "says what caused a change. A patient has one order of treatments, drawn by lot or not: where that puts a "
        "treatment before or behind the baseline, the sentence says that time may have done it.",
        "",
    ]
    for name, found in analysis.spreads.items():
        if found is None:
            continue
        if found.spread is None or found.next_better is None:
            lines.append(
                f"- {safe(name)}: too few patients had it to say how far patients differ, or of a further one."
            )
            continue
        d = analysis.decimals
        lines.append(
            f"- {safe(name)}: patients' own effects differ by {found.spread:.{d}f} points (standard deviation; "
            f"{found.spread_low:.{d}f} to {found.spread_high:.{d}f}); a further patient of this kind would have a "
            f"{better} severity with a probability of {percent(found.next_better)}."
        )
    lines += ["", "| patient | treatment | what the days say |", "|---|---|---|"]
    rows = analysis.patients[:MOST_SENTENCES]
    lines += [f"| {safe(row.patient)} | {safe(row.treatment)} | {safe(row.sentence)} |" for row in rows]
    if len(rows) < len(analysis.patients):
        lines += ["", f"The first {len(rows)} of {len(analysis.patients)}; `patients.csv` holds all."]
    return [*lines, ""]


def _checks(analysis: Analysis) -> list[str]:
    found = analysis.diagnostics
    lines = []
    for entry in found["order"]:
        if entry["later_share"] is not None:
            lines.append(
                f"- {safe(entry['treatment'])}: of a treated and a baseline day of one patient, the treated one is "
                f"later in {100 * entry['later_share']:.0f} % (50 % is balanced); effect confounded with time: "
                f"{entry['confounded']}."
            )
    drift = found["baseline_drift"]
    if drift["points_a_week"] is not None:
        lines.append(
            f"- Drift during {safe(analysis.study.treatments[0])}: {drift['points_a_week']:+.2f} points a week "
            f"({drift['low']:+.2f} to {drift['high']:+.2f}, {drift['patients']} patients)."
        )
    correlation = found["autocorrelation"]
    first = correlation["by_lag"][0]
    if first["correlation"] is not None:
        fitted = "" if correlation["rho_reml"] is None else f"; {correlation['rho_reml']:.2f} by REML, which is used"
        lines.append(
            f"- Autocorrelation of residuals at one day: {first['correlation']:.2f} ({first['pairs']:,} pairs){fitted}."
        )
    for name, model in found["models"].items():
        lines.append(f"- {_model(name, model, analysis.decimals)}")
    shape = found["residuals"]
    if shape is not None and shape["skewness"] is not None:
        lines.append(
            f"- Residuals: skewness {shape['skewness']:+.2f}, excess kurtosis {shape['excess_kurtosis']:+.2f}, the "
            f"largest {shape['largest_in_sd']:.1f} standard deviations from 0."
        )
    lines.append(
        f"- Days missing between a patient's first and last one: {100 * found['share_of_days_missing']:.1f} %."
    )
    return lines


def _model(name: str, model: dict[str, Any], decimals: int) -> str:
    label = name.replace("_", " ").capitalize()
    if not model["converged"]:
        return f"{label}: withheld, {safe(model['withheld'])}."
    spreads = ", ".join(f"{safe(effect)} {sd:.{decimals}f}" for effect, sd in model["random_effect_sd"].items())
    notes = f" Remarks of the fit: {safe('; '.join(model['notes']))}." if model["notes"] else ""
    return (
        f"{label}: converged ({model['optimizer']}); standard deviations between patients: {spreads}; of a day: "
        f"{model['residual_sd']:.{decimals}f}.{notes}"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """The value with every number that JSON cannot hold as null."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
