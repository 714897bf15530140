"""Studies written by hand or simulated, and the command called in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_fixtures import called

from datasets_scripts.simulate_acne import Design, simulate
from trainers import fit_acne_longitudinal
from trainers.longitudinal.rows import Day
from trainers.longitudinal.study import Study, assemble

HEADER = "patient,day,treatment,severity"


def _write(path: Path, rows: Iterable[Sequence[Any]], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def _balanced(
    patients: int = 8, days: int = 12, seed: int = 0, spread: float = 4.0
) -> list[tuple[str, int, str, float]]:
    """Baseline, A and B of equal length for all; own responses of sd ``spread`` about -6 and 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        level, own = 50 + 8 * rng.standard_normal(), spread * rng.standard_normal(2)
        for phase, (name, effect) in enumerate((("Baseline", 0.0), ("A", -6 + own[0]), ("B", own[1]))):
            for day in range(days):
                value = level + effect + 3 * rng.standard_normal()
                rows.append((f"p{number}", phase * days + day, name, float(value)))
    return rows


def _study(rows: Iterable[Sequence[Any]], **options: Any) -> Study:
    return assemble([Day(*row) for row in rows], "here.csv", **{"baseline": "Baseline", **options})


@pytest.fixture
def write() -> Callable[..., Path]:
    """Path, rows -> a CSV file."""
    return _write


@pytest.fixture
def study() -> Callable[..., Study]:
    """Rows (patient, day, treatment, severity) -> a study."""
    return _study


@pytest.fixture(scope="session")
def balanced() -> Study:
    """Eight patients, three phases of twelve days each, independent days."""
    return _study(_balanced())


@pytest.fixture(scope="session")
def balanced_rows() -> Callable[..., list[tuple[str, int, str, float]]]:
    """The rows of such a study."""
    return _balanced


@pytest.fixture(scope="session")
def simulated() -> Study:
    """The default simulated study, with gaps and phases of 10 to 28 days."""
    return _study(simulate(Design(missing=0.2, shortest=10), seed=4).rows)


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[int, str, str]]:
    """Call ``fit_acne_longitudinal`` (or another command's main) in this process: exit code, stdout, stderr."""
    return lambda *words, main=fit_acne_longitudinal.main: called(main, *words)
