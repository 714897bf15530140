"""Audit datasets: leaks between splits, duplicates within and across, label conflicts, missing values, licences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, read_json, run
from datasets_scripts.output import check_free, written_whole

SHA256 = re.compile(r"[0-9a-f]{64}")
HELD_OUT = ("validation", "calibration", "test")


def gate_threshold(model: Path) -> float:
    """The threshold of a finished model's gate.

    Raises:
        UserError: the model has none.
    """
    try:
        return float(read_json(model / "config.json")["trust"]["ood"]["threshold"])
    except (KeyError, TypeError) as error:
        raise UserError(f"--model {str(model)!r} has no fitted gate: run fit_trust on it") from error


def predictions_of(model: Path) -> list[Path]:
    """The predictions of held-out splits in a finished model's folder.

    Raises:
        UserError: there are none.
    """
    found = [path for split in HELD_OUT if (path := model / f"predictions_{split}.parquet").is_file()]
    if not found:
        raise UserError(f"--model {str(model)!r} has no predictions_*.parquet: give --predictions")
    return found


def known_hashes(path: Path) -> frozenset[str]:
    """The hashes of a file, one a line; empty lines and what follows a space are left out.

    Raises:
        UserError: it cannot be read, or a line is no sha256.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--known_hashes {str(path)!r} cannot be read ({error}): give a text file of hashes") from error
    found = {number: line.split()[0].lower() for number, line in enumerate(lines, 1) if line.strip()}
    for number, text in found.items():
        if not SHA256.fullmatch(text):
            raise UserError(
                f"--known_hashes {str(path)!r}, line {number}, has {text[:80]!r}: give a sha256 of decoded pixels, as "
                "--write_hashes writes them"
            )
    if not found:
        raise UserError(f"--known_hashes {str(path)!r} is empty: give one hash a line, or leave it out")
    return frozenset(found.values())


def command_line() -> OneLineParser:
    """The options of this command."""
    options = OneLineParser(prog="python -m datasets_scripts.audit_dataset", description=__doc__)
    options.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="DATASET",
        help="a dataset folder that a build command wrote, Parquet files with image and label, or class folders; "
        "duplicates are searched within each and across all",
    )
    options.add_argument(
        "--output_dir", type=Path, required=True, help="folder to write with audit.md and audit.json; must not exist"
    )
    options.add_argument(
        "--predictions",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="held-out or out-of-fold predictions (predictions_*.parquet) of the first dataset: adds likely label "
        "errors (default: none)",
    )
    options.add_argument(
        "--known_hashes",
        type=Path,
        metavar="FILE",
        help="hashes of images that a backbone was pretrained on, one a line, as --write_hashes writes them: counts "
        "the images of each split that are among them (default: none)",
    )
    options.add_argument(
        "--write_hashes",
        action="store_true",
        help="also write hashes.txt, the sha256 of the decoded pixels of each image, for the --known_hashes of others",
    )
    options.add_argument(
        "--model",
        help="a finished model of the first dataset: its predictions of held-out splits, and the threshold of its gate "
        "for off-topic images (default: none)",
    )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and audit."""
    given = command_line().parse_args(arguments)
    for folder in given.datasets:
        if not folder.is_dir():
            raise UserError(f"dataset {str(folder)!r} is no folder: give one that a build command wrote")
    if len({folder.resolve() for folder in given.datasets}) < len(given.datasets):
        raise UserError("a dataset is given twice: give each once, duplicates within it are searched too")
    known = known_hashes(given.known_hashes) if given.known_hashes else None
    if given.model is not None:
        check_model(given.model, "--model")
    check_free(given.output_dir, "--output_dir")
    from datasets_scripts import audit_report, label_errors
    from datasets_scripts.dataset_folder import read

    threshold = gate_threshold(Path(given.model)) if given.model else None
    files = given.predictions or (predictions_of(Path(given.model)) if given.model else [])
    held = label_errors.read_predictions(files) if files else None
    datasets = [read(folder) for folder in given.datasets]
    for number, dataset in enumerate(datasets):
        if any(dataset.name == other.name for other in datasets[:number]):
            dataset.name = str(given.datasets[number])
    report = audit_report.audit(datasets, held, threshold, known)
    with written_whole(given.output_dir) as folder:
        (folder / "audit.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        if given.write_hashes:
            hashes = sorted({one for dataset in datasets for one in dataset.hashes if SHA256.fullmatch(one)})
            (folder / "hashes.txt").write_text("".join(f"{one}\n" for one in hashes), encoding="utf-8")
        (folder / "audit.md").write_text(audit_report.markdown(report), encoding="utf-8")
    print("\n".join(audit_report.summary(report)))
    print(f"written to {given.output_dir}: audit.md, audit.json")


if __name__ == "__main__":
    run(main)
