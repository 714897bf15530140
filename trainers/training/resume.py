"""The settings of a run that is resumed: each checkpoint holds them, and only some may change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from datasets_scripts.command import UserError
from datasets_scripts.output import beside
from trainers.model_folder.output import check_empty
from trainers.training.arguments import LesionArguments, plain
from trainers.training.inherited import REFUSED
from trainers.training.trainer import COMPLETE_FILE, SETTINGS_FILE, newest_checkpoint
from trainers.training.training_arguments import LesionTrainingArguments

# Of the machine, of what is printed and logged, or of the time after the last step. A dataset is compared by its rows.
FREE = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "bf16",
    "bootstrap_replicates",
    "citation",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataset",
    "dataset_command",
    "ddp_backend",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "ddp_timeout",
    "disable_tqdm",
    "do_eval",
    "do_predict",
    "do_train",
    "eval_accumulation_steps",
    "eval_steps",
    "follows",
    "fp16",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "image_cache",
    "keep_features",
    "license",
    "linear_reference",
    "local_rank",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_first_step",
    "logging_nan_inf_filter",
    "logging_steps",
    "logging_strategy",
    "mc_dropout_samples",
    "member",
    "members",
    "name",
    "of_recipe",
    "output_dir",
    "per_device_eval_batch_size",
    "pretraining_data",
    "project",
    "recipe_builder",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
    "save_on_each_node",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "skip_memory_metrics",
    "tf32",
    "title",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "use_cpu",
    "weights_dtype",
}
# What a checkpoint of before a setting was known was trained with.
BEFORE = {"input_pipeline": "pillow"}
# From the resumed step on, the new value is used; the report names both. Every other setting must stay.
USED = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "learning_rate",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "precision",
    "warmup_steps",
    "weight_decay",
}


@dataclass
class RunRecord:
    """What each checkpoint keeps of its run, in ``settings.json``.

    Attributes:
        settings: every option that a resumed run is compared by.
        dataset: the fingerprint of the dataset's rows.
        resumed: one entry per resume with changed settings: ``step``, ``epoch`` and ``changed`` (name to the value
            before and the value after).
    """

    settings: dict[str, Any]
    dataset: str = ""
    resumed: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of ``settings.json``."""
        return json.dumps(vars(self), indent=1, sort_keys=True) + "\n"


def check_output(options: LesionArguments, training: LesionTrainingArguments, *, held: bool = False) -> None:
    """Check where the run is written, and what it resumes, before the dataset is loaded.

    Args:
        options: the suite's own options.
        training: the Trainer's; ``output_dir`` is the final folder.
        held: this run holds the folder's lock.

    Raises:
        UserError: the final folder is not empty or not given; an unfinished run stands there and is not to be resumed;
            there is no such checkpoint; a setting that must stay was changed.
    """
    if not training.output_dir:
        raise UserError("no output folder was given: add --output_dir DIR")
    out = Path(training.output_dir)
    check_empty(out, held=held or training.process_index > 0)  # the first process may hold the lock already
    checkpoints = beside(out) / "checkpoints"
    if newest_checkpoint(checkpoints) and not resume_value(training):
        raise UserError(
            f"an unfinished run stands in {str(beside(out))!r}: "
            "add --resume_from_checkpoint true to go on with it, or delete it"
        )
    checkpoint = last_checkpoint(training, checkpoints)
    if checkpoint:
        changes(checkpoint, settings(options, training))


def settings(options: LesionArguments, training: LesionTrainingArguments) -> dict[str, Any]:
    """Every option that a resumed run is compared by, and the number of processes, which the order of images is for."""
    values = {
        option.name: plain(getattr(given, option.name))
        for given in (options, training)
        for option in fields(given)
        if option.name not in FREE and option.name not in REFUSED
    }
    return {**values, "processes": training.world_size * max(1, training.n_gpu)}


def begin(record: RunRecord, checkpoint: str | None) -> RunRecord:
    """The run's record; of a resumed run with the record of its checkpoint, and the changes now.

    Raises:
        UserError: a setting that must stay, or the dataset, was changed.
    """
    if checkpoint is None:
        return record
    before = read_record(checkpoint)
    if before is None:
        print(f"warning: {checkpoint} does not hold its settings, so they could not be compared", flush=True)
        return record
    if before.dataset != record.dataset:
        raise UserError(
            f"the checkpoint {checkpoint!r} was trained on other rows than those of dataset "
            f"{record.settings.get('config_name')!r} now: give the same dataset, or delete it to start again"
        )
    changed = changes(checkpoint, record.settings)
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    entry = {"step": state["global_step"], "epoch": round(state["epoch"], 4), "changed": changed}
    return RunRecord(record.settings, record.dataset, [*before.resumed, *([entry] if changed else [])])


def changes(checkpoint: str, now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The changed settings that a resumed run uses: name to the value before and the value now.

    Raises:
        UserError: a setting that must stay was changed.
    """
    record = read_record(checkpoint)
    before = {**BEFORE, **record.settings} if record else {}
    changed = {name: [before[name], now[name]] for name in sorted(now) if before.get(name, now[name]) != now[name]}
    for name, (old, new) in changed.items():
        if name not in USED:
            raise UserError(
                f"{name} {new!r}: the run to go on with ({checkpoint}) has {name} {old!r}; give that one, choose "
                "another --output_dir, or delete the unfinished run"
            )
    return changed


def read_record(checkpoint: str) -> RunRecord | None:
    """The record in a checkpoint; None where it was written before checkpoints held one."""
    path = Path(checkpoint) / SETTINGS_FILE
    return RunRecord(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def resume_value(training: LesionTrainingArguments) -> str:
    """The value of ``--resume_from_checkpoint``: ``true``, a folder, or "" for a fresh start."""
    value = str(training.resume_from_checkpoint or "")
    return "" if value.lower() in ("false", "none") else value


def last_checkpoint(training: LesionTrainingArguments, checkpoints: Path) -> str | None:
    """What to resume from: nothing, the newest of ``checkpoints`` (``true``), or the folder that was named.

    Raises:
        UserError: the named checkpoint does not exist, or was not written to the end.
    """
    value = resume_value(training)
    if not value:
        return None
    if value.lower() == "true":
        newest = newest_checkpoint(checkpoints)
        return None if newest is None else str(newest)
    if not (Path(value) / COMPLETE_FILE).is_file():
        raise UserError(f"checkpoint {value!r} does not exist or is not complete: give `true` for this run's newest")
    return value
