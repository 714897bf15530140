"""A deep ensemble's run: train the members from different seeds, verify what is finished, put them together.

Each member is a finished Hub folder of its own under ``OUTPUT_DIR.members/member_<i>``. So a run may be stopped and
taken up again, and members may be trained one after another, side by side, or on different machines (``--member i``):
whoever finds all K finished puts them together. A finished member is never trained again; its files are compared with
its manifest, and its recipe and dataset with the options.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModelForImageClassification

from datasets_scripts.command import UserError, shown_path
from datasets_scripts.output import beside, locked
from hub_models import EnsembleForLesionClassification, MemberMismatchError
from model_cards.card import read_report
from model_cards.manifest import read_manifest
from model_cards.verify import verify_folder
from trainers.evaluation.trainer_metrics import TRAINER_METRICS
from trainers.model_folder.data import Splits, load_splits
from trainers.model_folder.finish import TrainedModel, finish, print_finished
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import audit_leaks, describe_dataset, provenance
from trainers.training.arguments import IDENTITY, EnsembleArguments, LesionArguments, parse
from trainers.training.log import settle_metric
from trainers.training.resume import check_output
from trainers.training.train import check_model, classifier, end_processes, print_recipe, settle_identity, train
from trainers.training.training_arguments import LesionTrainingArguments

# What of a recipe says something about an ensemble of finished models.
OF_AN_ENSEMBLE = {
    *IDENTITY,
    "bootstrap_replicates",
    "config_name",
    "dataset",
    "dataset_command",
    "mc_dropout_samples",
    "output_dir",
    "recipe_name",
    "weights_dtype",
}
# What may differ between members, or between two calls for the same member.
NOT_THE_RECIPE = {
    "backbone",
    "backbone_weights",
    "bootstrap_replicates",
    "citation",
    "dataloader_num_workers",
    "dataset",
    "dataset_command",
    "disable_tqdm",
    "follows",
    "keep_features",
    "license",
    "member",
    "mc_dropout_samples",
    "members",
    "name",
    "output_dir",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "seed",
    "title",
}


def main(recipe: str) -> None:
    """Train the members of this command line."""
    run(sys.argv[1:], recipe)
    end_processes()


def run(argv: list[str], recipe: str) -> Path | None:
    """Train what is missing; returns the finished ensemble, or None where members are still to be trained.

    Raises:
        UserError: bad arguments, dataset, recipe or folders; the message says what to do.
    """
    options, training, resolved = parse(argv, recipe, EnsembleArguments)
    if not training.output_dir:
        raise UserError("no output folder was given: add --output_dir DIR")
    out = Path(training.output_dir)
    check_empty(out)
    if options.members_from:
        return of_finished(options, training, resolved, out)
    settle_metric(training, TRAINER_METRICS)
    folders = [member_folder(out, number) for number in range(options.members)]
    # Decided before any training, so that every process of a run decides alike.
    finished = [folder.is_dir() and any(folder.iterdir()) for folder in folders]
    wanted = list(range(options.members)) if options.member is None else [options.member]
    for number in wanted:
        if not finished[number]:
            check_output(*member_run(number, folders[number], options, training, resolved)[:2])
    splits = load_splits(
        options.dataset, options.config_name, options.dataset_command, options.leave_out, options.columns
    )
    settle_identity(options, resolved, splits)
    for number in wanted:
        if not finished[number]:
            its_options, _, _ = member_run(number, folders[number], options, training, resolved)
            check_model(its_options, splits, EnsembleForLesionClassification)
    if training.process_index == 0:
        print_recipe(resolved)
    for number in wanted:
        if finished[number]:
            check_member(folders[number], splits, resolved)
            if training.process_index == 0:
                print(f"member {number} is finished and verified: {shown_path(folders[number])}", flush=True)
        else:
            one = member_run(number, folders[number], options, training, resolved)
            train(*one, splits, classifier(EnsembleForLesionClassification))
    if training.process_index > 0:
        return None
    missing = [number for number, folder in enumerate(folders) if not folder.is_dir()]
    if missing:
        print(f"members still to be trained: {', '.join(map(str, missing))}; the last one puts the ensemble together")
        return None
    for folder in folders:
        check_member(folder, splits, resolved)
    return put_together(folders, out, options, splits, resolved, training.seed)


def of_finished(
    options: EnsembleArguments, training: LesionTrainingArguments, resolved: dict[str, Any], out: Path
) -> Path | None:
    """The ensemble of the finished models of ``members_from``; None on all processes but the first.

    Raises:
        UserError: a folder is no finished model or was changed, or was trained on another dataset.
    """
    if training.process_index > 0:
        return None
    folders = [Path(word.strip()) for word in options.members_from.split(",")]
    splits = load_splits(
        options.dataset, options.config_name, options.dataset_command, options.leave_out, options.columns
    )
    settle_identity(options, resolved, splits)
    for folder in folders:
        check_finished(folder, splits)
    options.backbone_weights = "none"  # each member's report says where it started
    used = {"members": len(folders), "members_from": ",".join(folder.name for folder in folders)}
    own = {name: resolved[name] for name in sorted(set(resolved) & OF_AN_ENSEMBLE)} | used
    print_recipe(own)
    return put_together(folders, out, options, splits, own, training.seed)


def check_finished(folder: Path, splits: Splits) -> dict[str, Any]:
    """The provenance of a finished model that may take part.

    Raises:
        UserError: it is none, was changed, or was trained on another dataset.
    """
    problems = verify_folder(folder)
    if problems:
        raise UserError(
            f"member {str(folder)!r} is not as it was finished ({problems[0]}): train it again in another folder"
        )
    made: dict[str, Any] = read_report(folder)["provenance"]
    if made["dataset"]["fingerprint"] != describe_dataset(splits)["fingerprint"]:
        raise UserError(
            f"member {str(folder)!r} was trained on another dataset or config ({made['dataset']['name']}, "
            f"{made['dataset']['config_name']}): give that one, another --output_dir, or another member"
        )
    return made


def member_folder(out: Path, number: int) -> Path:
    """Where a member's finished folder stands: beside the ensemble, not in it."""
    return out.with_name(out.name + ".members") / f"member_{number}"


def member_run(
    number: int,
    folder: Path,
    options: EnsembleArguments,
    training: LesionTrainingArguments,
    resolved: dict[str, Any],
) -> tuple[LesionArguments, LesionTrainingArguments, dict[str, Any]]:
    """Options, Trainer options and resolved recipe of one member: seed + i, entry i of the lists, its own folder."""
    own = {
        "backbone": entry(options.backbone, number),
        "backbone_weights": entry(options.backbone_weights, number),
        "name": f"{options.name or folder.parent.name.removesuffix('.members')}-member-{number}",
        **({"title": f"{options.title}, member {number}"} if options.title else {}),
    }
    its_training = copy.copy(training)
    its_training.seed = training.seed + number
    its_training.data_seed = None
    its_training.output_dir = str(folder)
    its_recipe = {**resolved, **own, "seed": its_training.seed, "output_dir": str(folder), "member": number}
    its_options = replace(options)
    for name, value in own.items():
        setattr(its_options, name, value)
    return its_options, its_training, its_recipe


def entry(listed: str, number: int) -> str:
    """Entry ``number`` of a list separated by commas, starting again after the last."""
    entries = [word.strip() for word in listed.split(",")]
    return entries[number % len(entries)]


def check_member(folder: Path, splits: Splits, resolved: dict[str, Any]) -> None:
    """Compare a finished member with its manifest, and with the options.

    Raises:
        UserError: a file was changed or is missing; another recipe or dataset.
    """
    theirs = check_finished(folder, splits)["recipe"]
    ours = {key: value for key, value in resolved.items() if key != "recipe_name"}
    for key in sorted((set(theirs) | set(ours)) - NOT_THE_RECIPE):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"member {str(folder)!r} was trained with {key} {theirs.get(key)!r}, now it is {ours.get(key)!r}: "
                "give the same recipe, another --output_dir, or delete the member"
            )


def put_together(
    folders: Sequence[Path],
    out: Path,
    options: EnsembleArguments,
    splits: Splits,
    resolved: dict[str, Any],
    seed: int,
) -> Path:
    """Make the ensemble of finished members and finish it as every model is finished.

    Raises:
        UserError: members differ in labels or preprocessing.
    """
    try:
        model = EnsembleForLesionClassification.from_members(
            [AutoModelForImageClassification.from_pretrained(folder) for folder in folders]
        )
    except MemberMismatchError as error:
        raise UserError(str(error)) from error
    processor = same_processor(folders)
    about = {
        "provenance": provenance(splits, resolved, seed, options.precision),
        "training": training_section(folders),
        "leak_audit": audit_leaks(splits),
    }
    partial = beside(out)
    with locked(out):  # the processes of several members may all find that theirs was the last
        check_empty(out, held=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        report = finish(
            TrainedModel(model, processor, splits, about, options, partial, options.mc_dropout_samples), out
        )
    print_finished(out, report)
    return out


def same_processor(folders: Sequence[Path]) -> Any:
    """The members' image processor.

    Raises:
        UserError: it is not the same for all.
    """
    processors = [AutoImageProcessor.from_pretrained(folder) for folder in folders]
    first = processors[0].to_dict()
    for number, processor in enumerate(processors):
        for key, value in processor.to_dict().items():
            if first.get(key) != value:
                raise UserError(
                    f"member {number} prepares images with {key} {value!r}, member 0 with {first.get(key)!r}: "
                    "members must agree on labels and preprocessing"
                )
    return processors[0]


def training_section(folders: Sequence[Path]) -> dict[str, Any]:
    """The ``training`` section of the ensemble: its members', one row each, and their sums."""
    members = []
    for number, folder in enumerate(folders):
        report = read_report(folder)
        run = report["training"]
        members.append(
            {
                "member": number,
                "backbone": report["model"]["backbone"],
                "initialised_from": report["model"]["initialised_from"],
                "seed": report["provenance"]["seed"],
                "command": report["provenance"]["command"],
                "git_commit": report["provenance"]["git_commit"],
                "weights_sha256": read_manifest(folder)["model.safetensors"]["sha256"],
                **{key: run[key] for key in ("epochs", "kept_epoch", "kept_because", "best_metric", "metric")},
                **({"resumed": run["resumed"]} if "resumed" in run else {}),
                **{key: run[key] for key in ("train_seconds", "images_per_second", "peak_memory_bytes")},
            }
        )
    return {
        "members": members,
        "train_seconds": round(sum(member["train_seconds"] for member in members), 1),
        "peak_memory_bytes": max(member["peak_memory_bytes"] for member in members),
    }
