"""Which fields of ``transformers.TrainingArguments`` a training command takes, and which it refuses before any work.

Every field is of one of three kinds: refused (``REFUSED``, with the reason), checked (``RANGES`` and the functions
below: a value in its range, an optimizer, schedule or logging library that is installed), or taken as it is.
Refusing needs no torch; checking does.
"""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_scripts.command import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments

EVENTS_DIR = "TENSORBOARD_LOGGING_DIR"  # transformers' own variable

_PUBLISH = (
    "the Trainer would publish unfinished weights without code, card and trust; leave it out, then publish the "
    "finished folder with `python -m model_cards.publish OUTPUT_DIR --repo-id ORG/NAME`"
)
_LANGUAGE = "it concerns language models only; leave it out"
_EVERY_EPOCH = "the report holds the validation of every epoch; leave it out"
_RESUME = "a resumed run would not go on to the same weights; leave it out"
_WHOLE_VALIDATION = "every epoch is measured on the whole validation split, in one array; leave it out"
_SHARDING = (
    "leave it out and start the script with `accelerate launch --config_file trainers/launch/fsdp_vit_large.yaml`"
)

REFUSED = {
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
        ),
        _PUBLISH,
    ),
    **dict.fromkeys(
        (
            "average_tokens_across_devices",
            "include_num_input_tokens_seen",
            "length_column_name",
            "liger_kernel_config",
            "neftune_noise_alpha",
            "optim_target_modules",
            "parallelism_config",
            "use_cache",
            "use_liger_kernel",
        ),
        _LANGUAGE,
    ),
    **dict.fromkeys(("eval_delay", "eval_on_start"), _EVERY_EPOCH),
    "eval_strategy": "the report holds the validation of every epoch; give epoch, or leave it out",
    **dict.fromkeys(
        (
            "dataloader_in_order",
            "ignore_data_skip",
            "restore_callback_states_from_checkpoint",
            "save_only_model",
        ),
        _RESUME,
    ),
    **dict.fromkeys(
        (
            "batch_eval_metrics",
            "bf16_full_eval",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "fp16_full_eval",
            "include_for_metrics",
            "prediction_loss_only",
        ),
        _WHOLE_VALIDATION,
    ),
    **dict.fromkeys(("fsdp", "fsdp_config"), _SHARDING),
    "deepspeed": f"the finished weights of DeepSpeed cannot be gathered here; to shard a model, {_SHARDING}",
    "accelerator_config": "it would change which images a step sees; leave it out",
    "auto_find_batch_size": (
        "the report would name a batch size that was not used; give a smaller per_device_train_batch_size and more "
        "gradient_accumulation_steps"
    ),
    "data_seed": "the order of the images follows from seed; leave it out",
    "debug": "it ends in a traceback; a diverged run is reported in one line without it: leave it out",
    "enable_jit_checkpoint": (
        "a run that is ended early would be finished as if it were whole; leave it out: the last checkpoint of a "
        "killed run is resumed with resume_from_checkpoint true"
    ),
    "label_names": "the label is the column `label`; leave it out",
    "label_smoothing_factor": "the loss of the recipe has no label smoothing; leave it out, or give loss focal",
    "remove_unused_columns": "what a model looks at follows from its processor; leave it out",
    "train_sampling_strategy": "the sampler follows from sampling (uniform, oversample or square_root); leave it out",
}

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("gradient_accumulation_steps", "per_device_eval_batch_size", "per_device_train_batch_size"),
        (lambda value: value >= 1, "give at least 1"),
    ),
    **dict.fromkeys(
        ("dataloader_prefetch_factor", "eval_accumulation_steps", "save_total_limit"),
        (lambda value: value is None or value >= 1, "give at least 1"),
    ),
    **dict.fromkeys(
        ("adam_epsilon", "ddp_timeout", "learning_rate", "logging_steps", "save_steps"),
        (lambda value: 0 < value < math.inf, "give a number above 0"),
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "max_grad_norm", "warmup_steps", "weight_decay"),
        (lambda value: 0 <= value < math.inf, "give a number of at least 0"),
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (lambda value: 0 <= value < 1, "give a number in [0, 1)")),
    "max_steps": (lambda value: value >= -1, "give a number of steps, or leave it out"),
    "num_train_epochs": (lambda value: math.isfinite(value), "give a number of epochs above 0"),
    "seed": (lambda value: 0 <= value < 2**32, f"give a whole number from 0 to {2**32 - 1}"),
}

# Optimizers that need the modules of a language model, or keep weights that are not those that were trained.
_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo", "schedule_free")
# Schedules that follow a metric: the Trainer does not give them its direction.
_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# What libraries raise on values that they do not take, or where a part of them is missing.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,  # also of torch.compile, whatever it lacks
    TypeError,
    ValueError,
)
# They write into the working folder, which is removed at the end.
_REPORTS = ("codecarbon", "dagshub", "flyte")


def refuse(given_options: Namespace, defaults: Namespace) -> None:
    """Refuse fields that go round the suite's contract, and values out of range, before anything is set up.

    Args:
        given_options: the parsed command line on top of the recipe.
        defaults: the defaults, parsed alike; they are not refused.

    Raises:
        UserError: names the field, its value, the reason, and what to do.
    """
    for name, reason in REFUSED.items():
        value = getattr(given_options, name)
        if value != getattr(defaults, name):
            given = "***" if name == "hub_token" else repr(str(getattr(value, "value", value)))
            raise UserError(f"{name} {given} is not supported: {reason}")
    for name, (fine, what_to_do) in RANGES.items():
        value = getattr(given_options, name)
        try:
            usable = fine(value)
        except TypeError:  # a recipe can hold a list or null
            usable = False
        if not usable:
            raise UserError(f"{name} {value!r}: {what_to_do}")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1", "yes"):
        raise UserError(f"accelerate launch --use_deepspeed is not supported: {REFUSED['deepspeed']}")


def check(training: TrainingArguments) -> None:
    """Build what the Trainer would build after the dataset was loaded: optimizer, schedule, loggers, compiler.

    Raises:
        UserError: one of them cannot be had; names the field and its value.
    """
    if training.dataloader_persistent_workers and training.dataloader_num_workers == 0:
        raise UserError("dataloader_persistent_workers true: there are no workers (dataloader_num_workers 0)")
    check_reports(training)
    check_optimizer(training)
    if training.torch_compile:
        check_compiler(training)


def check_reports(training: TrainingArguments) -> None:
    """Refuse loggers that are unknown, not installed, or whose files would be lost.

    Raises:
        UserError: names the logger.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    for name in training.report_to or []:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(set(INTEGRATION_TO_CALLBACK) - set(_REPORTS)))
            raise UserError(f"report_to {name!r} is unknown: choose none or one of {known}")
        if name in _REPORTS:
            raise UserError(f"report_to {name!r} is not supported: its files would be removed with the working folder")
        if name not in installed:
            raise UserError(
                f"report_to {name!r}: its package is not installed; install it (pip install {name.replace('_', '-')}) "
                "or leave report_to out"
            )
    events, out = os.environ.get(EVENTS_DIR), os.path.abspath(training.output_dir or "")
    if "tensorboard" in (training.report_to or []) and events and training.output_dir:
        place = Path(os.path.abspath(os.path.expanduser(events)))
        if place.is_relative_to(out) or place.is_relative_to(f"{out}.partial"):
            raise UserError(
                f"{EVENTS_DIR} {events!r} lies in the output folder {training.output_dir!r}, which must be empty: "
                "choose another folder or unset it"
            )


def check_optimizer(training: TrainingArguments) -> None:
    """Build the optimizer and its schedule for a small model.

    Raises:
        UserError: an optimizer that is not supported or not installed, or arguments that it does not take.
    """
    import torch
    from transformers import Trainer, get_scheduler

    optim = str(getattr(training.optim, "value", training.optim))
    if optim.startswith(_OPTIMIZERS):
        raise UserError(f"optim {optim!r} is not supported: choose adamw_torch, sgd, adafactor or another one")
    small: Any = torch.nn.Linear(1, 1)
    options: Any
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(training, small)
        optimizer = kind(small.parameters(), **options)
    except FAULTS as error:
        given = f" with optim_args {training.optim_args!r}" if training.optim_args else ""
        raise UserError(f"optim {optim!r}{given} cannot be used ({error}): choose another, e.g. adamw_torch") from error
    schedule = str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type))
    if schedule in _SCHEDULES:
        raise UserError(f"lr_scheduler_type {schedule!r} is not supported: choose cosine, linear, constant or another")
    options = training.lr_scheduler_kwargs or {}
    try:
        get_scheduler(schedule, optimizer, 1, 10, options)
    except FAULTS as error:
        raise UserError(
            f"lr_scheduler_type {schedule!r} with lr_scheduler_kwargs {training.lr_scheduler_kwargs!r} cannot be used "
            f"({error}): change them, or leave both out"
        ) from error


def check_compiler(training: Any) -> None:
    """Compile a small model as the training would.

    Raises:
        UserError: no compiler on this machine, or an unknown backend or mode.
    """
    import torch

    try:
        small = torch.nn.Linear(1, 1).to(training.device)
        backend = training.torch_compile_backend or "inductor"
        compiled = torch.compile(small, backend=backend, mode=training.torch_compile_mode)
        compiled(torch.zeros(1, 1, device=training.device))
    except FAULTS as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"torch_compile true cannot be used here ({first[0]}): leave it out") from error
