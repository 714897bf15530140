"""Write a model of ours in a published system's own format: ``python -m trainers.export_published DIR --system NAME``.

What the published code loads is then the same arithmetic on the same weights, float32. Its formats have no place for
what was fitted after training: temperature and the rest of trust stay behind, so the logits are the raw ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from trainers.published import FORMATS, check_system, find_system


def export_published(folder: Path, system_name: str, out: Path, member: int | None = None) -> list[str]:
    """Write ``out``, which appears whole or not at all.

    Args:
        folder: a finished or imported model folder of ours.
        system_name: whose format to write.
        out: the file or folder to write; it must not exist.
        member: of an ensemble, the one to write alone, as one file.

    Returns:
        Remarks for the user, one sentence each.

    Raises:
        UserError: no model of ours there, or one of another architecture; ``out`` exists.
    """
    system = find_system(system_name)
    if out.exists():
        raise UserError(f"{out} exists: choose another --out or delete it")
    model, processor = load(folder)
    remarks = system.write(model, processor, out, member)
    if "temperature" in model.config.trust:
        value = model.config.softmax_temperature
        remarks.append(f"its temperature, {value:.4f}, is not part of the format: divide the logits by it yourself")
    if processor.do_hair_removal or processor.do_lesion_crop or processor.do_colour_constancy:
        remarks.append("its own preparation of images is not part of the format: prepare them as it did")
    return remarks


def load(folder: Path) -> tuple[Any, Any]:
    """Model and image processor of a folder, by our own classes.

    Raises:
        UserError: it is no model folder of ours.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    import hub_models
    from trainers.model_folder.source import check_files

    known = {config.model_type for config in hub_models.CLASSIFIERS}
    try:
        told = AutoConfig.from_pretrained(folder) if (folder / "config.json").is_file() else None
        if told is None or told.model_type not in known:
            raise UserError(f"{folder} is no model folder of this suite: give one that was trained or imported here")
        check_files(str(folder), None)
        return AutoModelForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{folder}: {error}") from error
        raise UserError(f"{folder} cannot be loaded ({error}): give a complete model folder") from error


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
    for remark in export_published(given.folder, given.system, given.out, given.member):
        print(f"note: {remark}")
    print(f"wrote {shown_path(given.out)}")


if __name__ == "__main__":
    run(main)
