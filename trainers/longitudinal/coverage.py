"""Do the intervals keep their promise? ``python -m trainers.longitudinal.coverage --studies 200`` measures it.

Simulates studies with known effects (``datasets_scripts.simulate_acne``) in four settings, analyses each by every
method, and counts how often the interval holds the true effect. Also counts how often a patient's own interval holds
the patient's own true response, and whether those with the verdict better were. Monte Carlo errors are standard errors
over studies. About five minutes for 200 studies on one core; the same seed gives the same table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.command import OneLineParser, UserError, run
from datasets_scripts.simulate_acne import BASELINE, Design, simulate
from model_cards.manifest import write_text
from trainers.longitudinal.analysis import METHODS
from trainers.model_folder.output import check_file

if TYPE_CHECKING:
    from trainers.longitudinal.analysis import Settings
    from trainers.longitudinal.mixed import MixedFit
    from trainers.longitudinal.study import Study


PLAIN = Design(autocorrelation=0.0, response_sd=0.0)
SETTINGS = {
    "independent days": PLAIN,
    "AR(1) 0.5": replace(PLAIN, autocorrelation=0.5),
    "patients respond differently": replace(PLAIN, response_sd=4.0),
    "both, a fifth of days missing, 10 to 28 days a phase": Design(missing=0.2, shortest=10),
}
ALL_METHODS = tuple(METHODS)


def as_study(design: Design, seed: int) -> tuple[Study, dict[str, Any]]:
    """A simulated study as the analysis reads it, and the truth about it."""
    drawn = simulate(design, seed)
    from trainers.longitudinal.rows import Day
    from trainers.longitudinal.study import assemble

    return assemble([Day(*row) for row in drawn.rows], "simulated study", BASELINE), drawn.truth


def measure(
    design: Design, studies: int, seed: int, methods: Sequence[str] = ALL_METHODS, *, patients: bool = True
) -> dict[str, Any]:
    """Bias and coverage over simulated studies.

    Args:
        design: what is simulated.
        studies: how many, >= 2; study i has seed ``seed + i``.
        seed: 0 or more.
        methods: of :data:`METHODS`; the models are fitted only where they are among them.
        patients: also evaluate the verdicts of patients.

    Returns:
        ``methods``: name -> :func:`summed` over studies and treatments; ``patients``: see :func:`patients_summed`, None
        where not fitted. All intervals are of 95 %.
    """
    from trainers.longitudinal.analysis import MODELS, Settings, effect_table
    from trainers.longitudinal.mixed import NotConvergedError, fit_mixed

    settings = Settings()
    errors: dict[str, list[list[tuple[float, bool, float]]]] = {name: [] for name in methods}
    verdicts: list[list[tuple[bool, str, float]]] = []
    wanted = [name for name in MODELS if any(method.startswith(name) for method in methods)]
    for number in tqdm(range(studies), desc="studies", disable=None, leave=False):
        study, truth = as_study(design, seed + number)
        models: dict[str, MixedFit | str] = dict.fromkeys(MODELS, "not requested")
        for name in wanted:
            try:
                models[name] = fit_mixed(study, MODELS[name])
            except NotConvergedError as error:
                models[name] = str(error)
        rows: dict[str, list[tuple[float, bool, float]]] = {name: [] for name in methods}
        for effect in effect_table(study, settings, models):
            true, found = truth["effects"][effect.treatment], effect.found
            if effect.method not in rows or found.estimate is None or found.low is None or found.high is None:
                continue
            inside = found.low <= true <= found.high
            rows[effect.method].append((found.estimate - true, inside, found.high - found.low))
        for name, found_rows in rows.items():
            errors[name].append(found_rows)
        if patients:
            verdicts.append(_verdicts(study, truth, settings))
    return {
        "studies": studies,
        "methods": {name: summed(found) for name, found in errors.items()},
        "patients": patients_summed(verdicts) if patients else None,
    }


def _verdicts(study: Study, truth: dict[str, Any], settings: Settings) -> list[tuple[bool, str, float]]:
    """For each patient and treatment: whether the interval holds the own true effect, the verdict, the true effect."""
    from trainers.longitudinal.days import fit_noise
    from trainers.longitudinal.patients import verdict
    from trainers.longitudinal.shrinking import patients_of

    noise, rows = fit_noise(study), []
    for index, treatment in enumerate(study.treatments[1:], 1):
        who, _, found = patients_of(study, index, noise, settings.confidence, settings.relevant)
        if found is None:
            continue
        for place, patient in enumerate(who.tolist()):
            own = truth["patients"][study.patients[patient]]["responses"][treatment]
            outcome = verdict(float(found.p_better[place]), float(found.p_worse[place]), settings.sure)
            rows.append((bool(found.low[place] <= own <= found.high[place]), outcome, own))
    return rows


def summed(found: list[list[tuple[float, bool, float]]]) -> dict[str, Any]:
    """Sum up one method: a list per study of (error, interval holds the truth, width).

    Returns:
        ``bias`` and ``coverage`` with their Monte Carlo errors ``*_se`` (over studies, whose treatments share a
        baseline), ``width`` (mean, points), ``withheld`` (share of studies without a number); None where none had one.
    """
    kept = [rows for rows in found if rows]
    withheld = 1 - len(kept) / len(found)
    if len(kept) < 2:
        empty = dict.fromkeys(("bias", "bias_se", "coverage", "coverage_se", "width"))
        return {**empty, "withheld": withheld}
    means = np.array([np.mean(np.array(rows, dtype=float), axis=0) for rows in kept])
    errors = means.std(axis=0, ddof=1) / math.sqrt(len(kept))
    return {
        "bias": float(means[:, 0].mean()),
        "bias_se": float(errors[0]),
        "coverage": float(means[:, 1].mean()),
        "coverage_se": float(errors[1]),
        "width": float(means[:, 2].mean()),
        "withheld": withheld,
    }


def patients_summed(verdicts: list[list[tuple[bool, str, float]]]) -> dict[str, Any]:
    """Sum up the verdicts of patients.

    Returns:
        ``coverage`` of the patients' own intervals with ``coverage_se`` over studies; for ``better`` and ``worse``:
        the share of patients with this verdict, and of these the share whose true effect has that sign (None where
        nobody).
    """
    per_study = np.array([np.mean([row[0] for row in rows]) for rows in verdicts if rows])
    rows = [row for study in verdicts for row in study]
    result: dict[str, Any] = {
        "coverage": float(per_study.mean()),
        "coverage_se": float(per_study.std(ddof=1) / math.sqrt(len(per_study))),
    }
    from trainers.longitudinal.patients import BETTER, WORSE

    for outcome, sign in ((BETTER, -1), (WORSE, 1)):
        right = [sign * row[2] > 0 for row in rows if row[1] == outcome]
        result[outcome] = {"told": len(right) / len(rows), "right": float(np.mean(right)) if right else None}
    return result


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The results as two Markdown tables."""
    lines = [
        "| setting | method | bias, points | coverage | mean width | withheld |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        for method, found in result["methods"].items():
            if found["coverage"] is None:
                lines.append(f"| {name} | {METHODS[method]} | | | | {100 * found['withheld']:.1f} % |")
                continue
            lines.append(
                f"| {name} | {METHODS[method]} | {found['bias']:+.2f} ± {found['bias_se']:.2f} "
                f"| {found['coverage']:.3f} ± {found['coverage_se']:.3f} "
                f"| {found['width']:.2f} | {100 * found['withheld']:.1f} % |"
            )
    lines += [
        "",
        "| setting | patients' own intervals hold | called better | of these right | called worse | of these right |",
        "|---|---|---|---|---|---|",
    ]
    from trainers.longitudinal.patients import BETTER, WORSE

    for name, result in results.items():
        found = result["patients"]
        cells = []
        for outcome in (BETTER, WORSE):
            right = found[outcome]["right"]
            cells += [f"{100 * found[outcome]['told']:.1f} %", "" if right is None else f"{100 * right:.1f} %"]
        lines.append(f"| {name} | {found['coverage']:.3f} ± {found['coverage_se']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.longitudinal.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--studies", type=int, default=200, help="simulated studies of each setting (default: %(default)s)")
    add("--seed", type=int, default=1000, help="of the first study, 0 or more (default: %(default)s)")
    add("--patients", type=int, default=10, help="of each study (default: %(default)s)")
    add("--days", type=int, default=28, help="of each treatment of each patient, at most (default: %(default)s)")
    add(
        "--methods",
        nargs="+",
        choices=ALL_METHODS,
        default=ALL_METHODS,
        metavar="NAME",
        help=f"which to measure, of {', '.join(ALL_METHODS)} (default: all; patient_means alone takes seconds)",
    )
    add("--out", type=Path, metavar="FILE.json", help="write every number as JSON (default: print the tables only)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, simulate, and print the tables.

    Raises:
        UserError: a number out of range, or a file that cannot be written.
    """
    given = make_parser().parse_args(arguments)
    for option, least in (("studies", 2), ("patients", 2), ("days", 10), ("seed", 0)):
        if getattr(given, option) < least:
            raise UserError(f"--{option} {getattr(given, option)}: give {least} or more")
    if given.out is not None:
        check_file(given.out, "coverage.json")
    sized = {name: replace(design, patients=given.patients, days=given.days) for name, design in SETTINGS.items()}
    results = {name: measure(design, given.studies, given.seed, given.methods) for name, design in sized.items()}
    if given.out is not None:
        write_text(given.out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    print(f"{given.studies} studies of {given.patients} patients a setting, ± Monte Carlo standard error\n")
    print(markdown(results), end="")


if __name__ == "__main__":
    run(main)
