"""Fields of TrainingArguments that are refused or checked before any work."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from datasets_scripts.command import UserError
from trainers.training.arguments import parse
from trainers.training.inherited import RANGES, REFUSED
from trainers.training.training_arguments import LesionTrainingArguments

BASE = ["--output_dir", "out", "--precision", "fp32"]
# Fields that are taken as they are: they change neither what is reported nor where it is written, or have checks of
# their own. A field that transformers adds must be put in one of the three kinds.
TAKEN = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "bf16",
    "dataloader_drop_last",
    "dataloader_multiprocessing_context",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "ddp_backend",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "disable_tqdm",
    "do_eval",
    "do_predict",
    "do_train",
    "eval_steps",
    "fp16",
    "full_determinism",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "greater_is_better",
    "load_best_model_at_end",
    "local_rank",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_first_step",
    "logging_nan_inf_filter",
    "logging_strategy",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "metric_for_best_model",
    "optim",
    "optim_args",
    "output_dir",
    "project",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
    "save_on_each_node",
    "save_strategy",
    "skip_memory_metrics",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "use_cpu",
}


def test_each_field_of_transformers_is_of_one_kind() -> None:
    assert {option.name for option in fields(TrainingArguments)} == TAKEN | set(REFUSED) | set(RANGES)
    assert len(TAKEN) + len(REFUSED) + len(RANGES) == len(TAKEN | set(REFUSED) | set(RANGES))


@pytest.mark.parametrize(
    "words",
    [
        "--push_to_hub true",
        "--hub_model_id org/name",
        "--hub_strategy end",
        "--hub_token hf_secret",
        "--deepspeed zero2.json",
        "--fsdp full_shard",
        "--fsdp",
        "--use_liger_kernel true",
        "--auto_find_batch_size true",
        "--neftune_noise_alpha 5",
        "--label_smoothing_factor 0.1",
        "--eval_strategy no",
        "--eval_strategy steps",
        "--data_seed 3",
        "--save_only_model true",
        "--ignore_data_skip true",
        "--enable_jit_checkpoint true",
        "--prediction_loss_only true",
        "--remove_unused_columns true",
        "--train_sampling_strategy group_by_length",
        "--include_for_metrics inputs",
        "--accelerator_config {}",
        "--debug underflow_overflow",
    ],
)
def test_a_field_that_goes_round_the_contract_is_refused_by_name(words: str) -> None:
    name = words.split()[0].removeprefix("--")
    with pytest.raises(UserError, match=rf"^{name} .*not supported") as refused:
        parse([*BASE, *words.split()], "mobilenet")
    assert "hf_secret" not in str(refused.value)
    if "hub" in name:
        assert "model_cards.publish" in str(refused.value)


def test_a_recipe_cannot_go_round_the_contract(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("push_to_hub: true\n")
    with pytest.raises(UserError, match="push_to_hub 'True'"):
        parse([*BASE, "--recipe", str(recipe)], "mobilenet")
    recipe.write_text("num_train_epochs: [3]\n")
    with pytest.raises(UserError, match="num_train_epochs"):
        parse([*BASE, "--recipe", str(recipe)], "mobilenet")
    recipe.write_text("push_to_hub: false\neval_strategy: epoch\n")
    assert parse([*BASE, "--recipe", str(recipe)], "mobilenet")[1].push_to_hub is False


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--report_to wandb", "report_to 'wandb'"),
        ("--report_to mlflow", "report_to 'mlflow'"),
        ("--report_to nonsense", "report_to 'nonsense'"),
        ("--report_to codecarbon", "report_to 'codecarbon'"),
        ("--optim adamw_bnb_8bit", "optim 'adamw_bnb_8bit'"),
        ("--optim adamw_torch_4bit", "optim 'adamw_torch_4bit'"),
        ("--optim galore_adamw", "optim 'galore_adamw'"),
        ("--optim lomo", "optim 'lomo'"),
        ("--optim stable_adamw", "optim 'stable_adamw'"),
        ("--optim sgd --optim_args momentum", "momentum"),
        ("--lr_scheduler_type reduce_lr_on_plateau", "reduce_lr_on_plateau"),
        ("--lr_scheduler_type cosine_with_min_lr", "cosine_with_min_lr"),
        ('--lr_scheduler_kwargs {"nonsense":1}', "nonsense"),
        ("--lr_scheduler_kwargs nothing.json", "nothing.json"),
        ("--torch_compile true --torch_compile_backend nonsense", "nonsense"),
        ("--learning_rate 0", "learning_rate 0"),
        ("--learning_rate nan", "learning_rate nan"),
        ("--per_device_train_batch_size 0", "per_device_train_batch_size 0"),
        ("--gradient_accumulation_steps 0", "gradient_accumulation_steps 0"),
        ("--num_train_epochs inf", "num_train_epochs inf"),
        ("--adam_beta1 1.5", "adam_beta1 1.5"),
        ("--seed -1", "seed -1"),
        ("--dataloader_num_workers -1", "dataloader_num_workers -1"),
        ("--dataloader_num_workers 0 --dataloader_persistent_workers true", "dataloader_persistent_workers"),
        ("--bf16 true", "bf16"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_error(words: str, named: str) -> None:
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        parse([*BASE, *words.split()], "mobilenet")


def test_bf16_alone_is_the_precision_that_is_reported() -> None:
    _, training, resolved = parse(["--output_dir", "out", "--bf16", "true", "--use_cpu", "true"], "mobilenet")
    assert (training.bf16, training.fp16, resolved["precision"]) == (True, False, "bf16")


@pytest.mark.parametrize("words", ["--do_train --do_eval", "--optim sgd --optim_args momentum=0.9", "--report_to none"])
def test_what_is_usual_is_taken(words: str) -> None:
    assert parse([*BASE, *words.split()], "mobilenet")[1].output_dir == "out"


def test_events_are_not_written_into_the_output_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "out/runs")
    with pytest.raises(UserError, match="out/runs"):
        parse([*BASE, "--report_to", "tensorboard"], "mobilenet")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    assert parse([*BASE, "--report_to", "tensorboard"], "mobilenet")[1].report_to == ["tensorboard"]


def test_refused_fields_are_not_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], "mobilenet")
    shown = capsys.readouterr().out
    assert "--push_to_hub" not in shown
    assert "--learning_rate" in shown
    assert {option.name for option in fields(LesionTrainingArguments)} > set(REFUSED)
