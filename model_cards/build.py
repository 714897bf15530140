"""Write the card and then the manifest of a finished model folder: ``python -m model_cards.build DIR``."""

from __future__ import annotations

from pathlib import Path

from datasets_scripts.command import OneLineParser, run
from model_cards.card import REPORT, ReportError, read_report, render, report_kind
from model_cards.manifest import MANIFEST, list_files, write_manifest, write_text

CARD = "README.md"


def build_card(folder: Path) -> str:
    """Render ``README.md`` from ``report.json``, then hash every file into ``manifest.json``.

    Each file appears whole or not at all; a report that lacks a number leaves the folder as it was.

    Returns:
        The card's text.

    Raises:
        ReportError: no report, one that cannot be read, is of no single model, or names an absent figure.
        MissingNumberError: a number that the card shows is missing from the report.
        ManifestError: a link in the folder leads out of it.
    """
    folder = Path(folder)
    if not (folder / REPORT).is_file() and (folder / "audit.json").is_file():
        raise ReportError(f"{folder} is a dataset folder: the command that built it wrote its card and manifest")
    report = read_report(folder)
    if (kind := report_kind(report)) != "model":
        named = kind.replace("_", " ")
        raise ReportError(f"{folder} holds a {named}, not one model: the command that made it wrote its {CARD}")
    files, _ = list_files(folder)
    text = render(report, files)
    write_text(folder / CARD, text)
    write_manifest(folder)
    return text


def main() -> None:
    """Parse the command line and build."""
    parser = OneLineParser(
        prog="python -m model_cards.build",
        description=f"Write {CARD} from {REPORT}, then {MANIFEST}, into a finished model folder. Takes seconds.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help=f"the model's folder; it holds {REPORT}")
    folder = parser.parse_args().folder
    build_card(folder)
    print(f"wrote {folder / CARD} and {folder / MANIFEST}")


if __name__ == "__main__":
    run(main)
