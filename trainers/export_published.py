"""Write a model of ours in a published system's own format: ``python -m trainers.export_published DIR --system NAME``.

What the published code loads is then the same arithmetic on the same weights, float32. Its formats have no place for
what was fitted after training: temperature and the rest of trust stay behind, so the logits are the raw ones.
"""

from __future__ import annotations

from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from trainers.published import FORMATS, check_system


def main() -> None:
    """Parse the command line and export."""
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser = OneLineParser(prog="python -m trainers.export_published", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a finished or imported model folder")
    parser.add_argument("--system", required=True, metavar="NAME", help=f"the format, of: {', '.join(sorted(FORMATS))}")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE_OR_DIR", help=f"what to write. {formats}")
    parser.add_argument(
        "--member", type=int, default=None, help="of an ensemble: write this member alone, as a file (default: all)"
    )
    given = parser.parse_args()
    check_system(given.system)
    if not given.folder.is_dir():
        raise UserError(f"{str(given.folder)!r} is no folder: give a finished or imported model folder")
    from trainers.published.convert import export_published

    for remark in export_published(given.folder, given.system, given.out, given.member):
        print(f"note: {remark}")
    print(f"wrote {shown_path(given.out)}")


if __name__ == "__main__":
    run(main)
