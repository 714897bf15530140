"""Write the card, the full report and the manifest of a finished model: ``python -m model_cards.build DIR``."""

from __future__ import annotations

import json
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.card import CARD, DETAILS, REPORT, read_report, render, report_kind
from model_cards.hub import check_repo_id
from model_cards.manifest import MANIFEST, list_files, write_manifest, write_text


def build_card(folder: Path, repo_id: str | None = None) -> dict[str, str]:
    """Render ``README.md`` and ``REPORT.md`` from ``report.json``, then hash every file into ``manifest.json``.

    Each file appears whole or not at all; a report that lacks a number leaves the folder as it was.

    Args:
        folder: of a finished model.
        repo_id: the repository that the model gets, ``ORG/NAME``: the report keeps it and the examples load it. None
            leaves what the report says.

    Returns:
        File name -> text of what was written.

    Raises:
        UserError: no report, one that cannot be read, is of no single model, or names an absent figure.
        MissingNumberError: a number that the card shows is missing from the report.
        UserError: a link in the folder leads out of it; ``repo_id`` is no name of a repository.
    """
    folder = Path(folder)
    if not (folder / REPORT).is_file() and (folder / "audit.json").is_file():
        raise UserError(f"{folder} is a dataset folder: the command that built it wrote its card and manifest")
    report = read_report(folder)
    if (kind := report_kind(report)) != "model":
        named = kind.replace("_", " ")
        raise UserError(f"{folder} holds a {named}, not one model: the command that made it wrote its {CARD}")
    files, _ = list_files(folder)
    texts = {}
    if repo_id is not None:
        check_repo_id(repo_id)
        report["model"]["repo_id"] = repo_id
        texts[REPORT] = json.dumps(report, indent=1, allow_nan=False) + "\n"
    texts |= render(report, files)
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)
    write_manifest(folder)
    return texts


def main() -> None:
    """Parse the command line and build."""
    parser = OneLineParser(
        prog="python -m model_cards.build",
        description=f"Write {CARD} and {DETAILS} from {REPORT}, then {MANIFEST}, into a finished model folder. "
        "Takes seconds.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help=f"the model's folder; it holds {REPORT}")
    parser.add_argument(
        "--repo-id",
        metavar="ORG/NAME",
        help="the repository that the examples of the card load (default: the report's)",
    )
    given = parser.parse_args()
    folder = given.folder
    written = [*build_card(folder, given.repo_id), MANIFEST]
    print(f"wrote {', '.join(str(folder / name) for name in written)}")


if __name__ == "__main__":
    run(main)
