"""Simulate a study of daily acne severity: patients x treatments, every true effect known and written beside it.

``python -m datasets_scripts.simulate_acne --out study.csv`` writes patient, day, treatment, severity, and
``study.truth.json`` with the effects, the autocorrelation and each patient's own response. Severity counts points where
lower is better. No patient exists: the numbers show whether an analysis finds the true effects, and nothing about acne.

    severity = level of the patient + effect of the treatment + the patient's own response + AR(1) noise + trend * day
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import OneLineParser, UserError, run
from datasets_scripts.output import whole_file
from datasets_scripts.sources.tables import TableWriter

BASELINE = "Baseline"
EFFECTS = {"Antibiotics": -12.0, "Cream": -4.0}
ORDERS = ("fixed", "random")
COLUMNS = ("patient", "day", "treatment", "severity")
SIMULATED = "Simulated, no patient exists"
LOWEST, HIGHEST = 0.0, 100.0  # points; what the default study stays within
LARGEST = 1e4  # points of any number that is put in; sums of such have all their digits
MOST_DAYS = 1_000_000  # of all patients and treatments


@dataclass(frozen=True)
class Design:
    """What is simulated.

    Attributes:
        patients: how many, >= 1; with all their days at most :data:`MOST_DAYS`.
        days: of each treatment of each patient, >= 1.
        effects: treatment -> mean change against baseline over all patients, in points.
        level: mean severity at baseline, in points.
        patient_sd: standard deviation of the patients' own levels, in points.
        response_sd: standard deviation of the patients' own responses to each treatment about its effect, in points.
        noise_sd: standard deviation of a day about the patient's mean, in points.
        autocorrelation: of a day's deviation with the next day's, 0 <= rho < 1.
        order: ``fixed``: baseline first, then the treatments as listed; ``random``: any order, one draw a patient.
        missing: share of days that are left out at random, 0 <= share < 1.
        shortest: days of the shortest phase, 1 to ``days``; phases last from this to ``days``, drawn evenly.
        trend: points a day that severity changes by itself; a fixed order cannot tell it from an effect.
    """

    patients: int = 10
    days: int = 28
    effects: dict[str, float] = field(default_factory=lambda: dict(EFFECTS))
    level: float = 50.0
    patient_sd: float = 8.0
    response_sd: float = 4.0
    noise_sd: float = 5.0
    autocorrelation: float = 0.5
    order: str = "fixed"
    missing: float = 0.0
    shortest: int | None = None
    trend: float = 0.0

    def __post_init__(self) -> None:
        shortest = self.days if self.shortest is None else self.shortest
        numbers = (self.level, self.patient_sd, self.response_sd, self.noise_sd, self.trend, *self.effects.values())
        names = [name.casefold() for name in (BASELINE, *self.effects)]
        total = self.patients * self.days * len(names)
        checks = (
            (self.patients >= 1, f"{self.patients} patients: give at least 1"),
            (self.days >= 1, f"{self.days} days a treatment: give at least 1"),
            (1 <= shortest <= self.days, f"the shortest phase of {shortest} days: give 1 to {self.days}, the longest"),
            (bool(self.effects), "no treatment beside the baseline: give at least one effect"),
            (names[0] not in names[1:], f"an effect of {BASELINE!r}: it is what the others are compared with"),
            (
                len(set(names)) == len(names),
                f"the treatments {', '.join(self.effects)} differ by capitals alone: give each another name",
            ),
            (
                total <= MOST_DAYS,
                f"{self.patients} patients of {self.days} days a treatment are {total:,} days: give fewer, "
                f"{MOST_DAYS:,} at most",
            ),
            (all(map(math.isfinite, numbers)), f"a number that is not finite among {numbers}: give finite ones"),
            (
                max(map(abs, numbers)) <= LARGEST,
                f"a number beyond {LARGEST:,.0f} points among {', '.join(f'{number:g}' for number in numbers)}: give a "
                "smaller one",
            ),
            (
                abs(self.trend) * self.days * len(names) <= LARGEST,
                f"a trend of {self.trend:g} points a day over {self.days * len(names)} days: give a smaller one, "
                f"{LARGEST:,.0f} points in all at most",
            ),
            (
                min(self.patient_sd, self.response_sd, self.noise_sd) >= 0,
                "a standard deviation below 0: give 0 or more",
            ),
            (0 <= self.autocorrelation < 1, f"an autocorrelation of {self.autocorrelation}: give 0 or more, below 1"),
            (0 <= self.missing < 1, f"{self.missing} as the share of missing days: give 0 or more, below 1"),
            (self.order in ORDERS, f"the order {self.order!r}: give one of {', '.join(ORDERS)}"),
        )
        for holds, message in checks:
            if not holds:
                raise UserError(message)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study and the truth about it.

    Attributes:
        rows: (patient, day, treatment, severity) in order of patient and day; days count from 1.
        truth: JSON-ready; ``effects``, ``autocorrelation`` and the rest of the design, and for each patient its
            ``level`` and ``responses`` (treatment -> the patient's own true change against baseline, effect included).
    """

    rows: list[tuple[str, int, str, float]]
    truth: dict[str, Any]


def simulate(design: Design, seed: int) -> SimulatedStudy:
    """Draw one study; the same design and seed give the same numbers.

    Severity is not clipped, so that the effects are exactly true; ``truth`` counts the values outside 0 to 100 points.

    Args:
        design: what to simulate.
        seed: 0 or more.

    Raises:
        UserError: every day fell to the missing ones.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, int, str, float]] = []
    people: dict[str, Any] = {}
    width = max(2, len(str(design.patients)))
    for number in range(1, design.patients + 1):
        patient = f"p{number:0{width}d}"
        level = design.level + design.patient_sd * float(rng.standard_normal())
        responses = {
            name: effect + design.response_sd * float(rng.standard_normal()) for name, effect in design.effects.items()
        }
        given = _treatment_of_each_day(design, rng)
        noise = design.noise_sd * _autocorrelated(len(given), design.autocorrelation, rng)
        kept = rng.random(len(given)) >= design.missing
        for index in np.flatnonzero(kept).tolist():
            mean = level + responses.get(given[index], 0.0) + design.trend * index
            rows.append((patient, index + 1, given[index], round(mean + float(noise[index]), 2)))
        people[patient] = {
            "level": round(level, 4),
            "order": list(dict.fromkeys(given)),
            "responses": {name: round(value, 4) for name, value in responses.items()},
        }
    if not rows:
        raise UserError(f"all days are missing at a share of {design.missing}: give a smaller one")
    outside = sum(not LOWEST <= row[3] <= HIGHEST for row in rows)
    truth = {
        "note": f"{SIMULATED}. Severity in points, lower is better; effects are changes against {BASELINE}.",
        "seed": seed,
        "effects": dict(design.effects),
        "autocorrelation": design.autocorrelation,
        "design": asdict(design),
        "rows": len(rows),
        "values_outside_0_to_100": outside,
        "patients": people,
    }
    return SimulatedStudy(rows, truth)


def _treatment_of_each_day(design: Design, rng: np.random.Generator) -> list[str]:
    """The treatment of each of a patient's days, phase after phase."""
    phases = [BASELINE, *design.effects]
    if design.order == "random":
        phases = [phases[index] for index in rng.permutation(len(phases))]
    shortest = design.days if design.shortest is None else design.shortest
    lengths = rng.integers(shortest, design.days + 1, len(phases))
    return [name for name, length in zip(phases, lengths.tolist(), strict=True) for _ in range(length)]


def _autocorrelated(count: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) stationary AR(1) noise of variance 1: ``e[t] = rho e[t-1] + sqrt(1 - rho^2) z[t]``."""
    noise = rng.standard_normal(count)
    for index in range(1, count):
        noise[index] = rho * noise[index - 1] + math.sqrt(1 - rho**2) * noise[index]
    return noise


def truth_file(out: Path) -> Path:
    """Where the truth stands: ``study.csv`` -> ``study.truth.json``."""
    return out.with_name(out.stem + ".truth.json")


def write(study: SimulatedStudy, out: Path) -> None:
    """Write the table and the truth beside it, each whole or not at all.

    Raises:
        UserError: one of the files is there already.
    """
    text = io.StringIO()
    writer = TableWriter(text)
    writer.writerow(COLUMNS)
    writer.writerows(study.rows)
    with whole_file(out) as table, whole_file(truth_file(out)) as truth:
        check_absent(out)
        truth.write_text(json.dumps(study.truth, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        table.write_text(text.getvalue(), encoding="utf-8")


def check_absent(out: Path) -> None:
    """Refuse to write over a file.

    Raises:
        UserError: the table or its truth is there already, or the name is no table's.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {str(out)!r} is no table's name: end it in .csv")
    for path in (out, truth_file(out)):
        if path.exists():
            raise UserError(f"{str(path)!r} exists already: choose another --out or delete it")


def parse_effect(text: str) -> tuple[str, float]:
    """``Cream=-4`` -> its name and points."""
    name, equals, points = (part.strip() for part in text.rpartition("="))
    try:
        value = float(points)
    except ValueError:
        value = math.nan
    if not equals or not name or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no effect: give NAME=POINTS, for example Cream=-4")
    return name, value


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m datasets_scripts.simulate_acne",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, Design()
    add("--out", required=True, type=Path, metavar="FILE.csv", help="table to write; must not exist yet")
    add("--seed", type=int, default=1, help="the same seed gives the same study, 0 or more (default: %(default)s)")
    add("--patients", type=int, default=default.patients, help="how many (default: %(default)s)")
    add("--days", type=int, default=default.days, help="days of each treatment of each patient (default: %(default)s)")
    add(
        "--effect",
        type=parse_effect,
        action="append",
        metavar="NAME=POINTS",
        help="a treatment and its mean change against Baseline; once for each, in their order (default: "
        f"{', '.join(f'{name}={points:g}' for name, points in EFFECTS.items())})",
    )
    add("--level", type=float, default=default.level, help="mean severity at baseline, points (default: %(default)s)")
    for option, value, what in (
        ("--patient-sd", default.patient_sd, "of the patients' levels"),
        ("--response-sd", default.response_sd, "of the patients' own responses about the effect"),
        ("--noise-sd", default.noise_sd, "of a day about the patient's mean"),
    ):
        add(option, type=float, default=value, help=f"standard deviation {what}, points (default: %(default)s)")
    add(
        "--autocorrelation", type=float, default=default.autocorrelation, help="of days, 0 to <1 (default: %(default)s)"
    )
    add("--order", choices=ORDERS, default=default.order, help="of the treatments (default: %(default)s)")
    add("--missing", type=float, default=0.0, help="share of days left out at random, 0 to <1 (default: %(default)s)")
    add("--shortest", type=int, help="days of the shortest phase, to vary their lengths (default: as --days)")
    add("--trend", type=float, default=0.0, help="points a day that no treatment makes (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, simulate and write.

    Raises:
        UserError: a number out of range, or a file that exists.
    """
    options = make_parser().parse_args(arguments)
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: give 0 or more")
    effects = dict(options.effect or EFFECTS.items())
    if len(effects) < len(options.effect or ()):
        raise UserError(f"--effect names a treatment twice ({', '.join(n for n, _ in options.effect)}): give each once")
    names = ("patients", "days", "level", "patient_sd", "response_sd", "noise_sd", "autocorrelation", "order")
    rest = {name: getattr(options, name) for name in (*names, "missing", "shortest", "trend")}
    design = Design(effects=effects, **rest)
    check_absent(options.out)
    study = simulate(design, options.seed)
    write(study, options.out)
    print(f"{len(study.rows)} days of {design.patients} simulated patients written to {options.out}")
    print(f"true effects, points against {BASELINE}: " + ", ".join(f"{n} {v:+g}" for n, v in effects.items()))
    print(f"what was put in: {truth_file(options.out)}")
    outside = study.truth["values_outside_0_to_100"]
    if outside:
        print(f"note: {outside} values lie outside 0 to 100 points; they are kept, so that the effects stay exact")


if __name__ == "__main__":
    run(main)
