"""Published checkpoints as complete model folders of ours (nothing is evaluated here), and back into their formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

import hub_models
from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from model_cards.build import build_card
from trainers.model_folder.citations import citations
from trainers.model_folder.evaluate import write_report
from trainers.model_folder.finish import SCHEMA_VERSION, in_words, save
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import origin
from trainers.model_folder.source import check_files
from trainers.published import find_system
from trainers.published.state import sha256
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
        UserError: ``out`` is not empty; the checkpoint is not this system's, incomplete, damaged, or holds code.
    """
    check_empty(out)
    found = system.read(checkpoint, labels)
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
    known = {config.model_type for config in hub_models.CLASSIFIERS}
    try:
        config = AutoConfig.from_pretrained(folder) if (folder / "config.json").is_file() else None
        if config is None or config.model_type not in known:
            raise UserError(f"{folder} is no model folder of this suite: give one that was trained or imported here")
        check_files(str(folder), None)
        return AutoModelForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{folder}: {error}") from error
        raise UserError(f"{folder} cannot be loaded ({error}): give a complete model folder") from error
