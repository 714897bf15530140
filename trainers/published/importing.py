"""Turn a published checkpoint into a Hub repo of ours: ``python -m trainers.import_published --system NAME ...``.

The folder is complete (weights, configuration, processor, code, card, manifest) and says that nothing was evaluated
here: no metric, no temperature. ``python -m model_cards.verify`` checks it like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from model_cards.build import build_card
from trainers.model_folder.output import check_empty, written_whole
from trainers.published import FORMATS, check_system, find_system

if TYPE_CHECKING:
    from trainers.published.system import Imported, System


def import_published(
    system: System, checkpoint: Sequence[Path], out: Path, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all.

    Args:
        system: whose format the files are in.
        checkpoint: the published file, files or folder.
        out: absent, or an empty folder.
        labels: class names that replace the published ones, in the order of the logits.

    Returns:
        The report that was written.

    Raises:
        UserError: ``out`` is not empty.
        PublishedFileError: the checkpoint is not this system's, incomplete, damaged, or holds code.
    """
    check_empty(out)
    found = system.read(checkpoint, labels)
    from trainers.model_folder.evaluate import write_report
    from trainers.model_folder.finish import SCHEMA_VERSION, save

    report = {
        "schema_version": SCHEMA_VERSION,
        "model": describe_model(system, found.model),
        "imported": describe_import(system, found),
    }
    with written_whole(out) as folder:
        save(found.model, found.processor, folder, "float32")
        write_report(report, folder)
        build_card(folder)
    return report


def describe_model(system: System, model: Any) -> dict[str, Any]:
    """The ``model`` section, with the keys of a trained one's."""
    config = model.config
    from trainers.model_folder.citations import citations
    from trainers.model_folder.finish import in_words

    return {
        "name": f"{system.name}-imported",
        "title": system.title,
        "class": type(model).__name__,
        "model_type": config.model_type,
        "backbone": in_words(config.backbones),
        "initialised_from": config.initialised_from,
        "base_model": None,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "image_size": config.image_size,
        "labels": [
            {"name": name, "long_name": config.label_names[name], "group": config.label_groups[name]}
            for name in config.labels
        ],
        "license": system.license,
        "weights_dtype": "float32",
        "citation": citations(list(system.sources), config.backbones, system.cited_as),
        "notes": [],
        "tags": [*system.tags, "imported"],
    }


def describe_import(system: System, found: Imported) -> dict[str, Any]:
    """The ``imported`` section: where the weights come from, and what nobody here has checked."""
    processor = found.processor
    from trainers.model_folder.provenance import origin
    from trainers.published.state import sha256

    return {
        "system": system.name,
        "publisher": system.publisher,
        "license_note": system.license_note,
        "files": [{"name": name, "sha256": sha256(path), "size": path.stat().st_size} for name, path in found.files],
        "labels_from": found.labels_from,
        "sources": list(system.sources),
        "trained_on": system.trained_on,
        "claims": list(system.claims),
        "preprocessing": {
            "image_mean": list(processor.image_mean),
            "image_std": list(processor.image_std),
            "difference": system.preprocessing,
        },
        "provenance": origin(),
    }


def main() -> None:
    """Parse the command line and import."""
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser = OneLineParser(prog="python -m trainers.import_published", description=__doc__)
    parser.add_argument(
        "--system", required=True, metavar="NAME", help=f"the published system: {', '.join(sorted(FORMATS))}"
    )
    parser.add_argument(
        "--checkpoint", required=True, nargs="+", type=Path, metavar="FILE", help=f"what was published. {formats}"
    )
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="the folder to write; absent")
    parser.add_argument(
        "--labels", default=None, help="short class names in the logits' order, a,b,c (default: as published)"
    )
    given = parser.parse_args()
    check_system(given.system)
    for path in given.checkpoint:
        if not path.exists():
            raise UserError(f"--checkpoint {str(path)!r} does not exist: give what was published")
    labels = None if given.labels is None else [name.strip() for name in given.labels.split(",")]
    report = import_published(find_system(given.system), given.checkpoint, given.output_dir, labels)
    model = report["model"]
    print(f"{model['title']}: {model['backbone']}, classes {', '.join(row['name'] for row in model['labels'])}")
    print(f"imported: {shown_path(given.output_dir)} is a complete Hub repo; nothing was evaluated")


if __name__ == "__main__":
    run(main)
