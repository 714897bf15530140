"""Names as charts can draw them: short, plain text whatever they hold, in characters that the font has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.font_manager import findfont, get_font

from trainers.longitudinal.analysis import Analysis

FONT = "DejaVu Sans"  # that matplotlib brings
MOST = 24  # characters of a name


def labels(names: Sequence[str]) -> list[str]:
    """A label for each name, all different.

    A long name loses its middle, one with characters that the font lacks becomes its number in the table. A dollar sign
    is escaped, or matplotlib would read formulas.
    """
    known = get_font(findfont(FONT)).get_charmap()
    drawn: list[str] = []
    for number, name in enumerate(names, 1):
        plain = " ".join("".join(mark if mark.isprintable() else " " for mark in name).split())
        if not plain or any(ord(mark) not in known for mark in plain):
            plain = f"no. {number}"
        if len(plain) > MOST:
            plain = f"{plain[: MOST - 9]}…{plain[-8:]}"
        label = plain.replace("$", r"\$")
        # What begins with an underscore is left out of legends.
        label = f" {label}" if label.startswith("_") else label
        drawn.append(f"{label} ({number})" if label in drawn else label)
    return drawn


def with_labels(analysis: Analysis) -> Analysis:
    """The same analysis, its patients and treatments named as they are drawn."""
    study = analysis.study
    patients = dict(zip(study.patients, labels(study.patients), strict=True))
    treatments = dict(zip(study.treatments, labels(study.treatments), strict=True))
    return replace(
        analysis,
        study=replace(study, patients=tuple(patients.values()), treatments=tuple(treatments.values())),
        effects=[replace(effect, treatment=treatments[effect.treatment]) for effect in analysis.effects],
        patients=[
            replace(row, patient=patients[row.patient], treatment=treatments[row.treatment])
            for row in analysis.patients
        ],
    )
