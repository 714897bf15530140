"""A killed training goes on to the same weights, with the recipes' own workers, persistent workers and dropout."""

from __future__ import annotations

import json
import multiprocessing
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from transformers import set_seed

from datasets_scripts.command import UserError
from hub_models import MobileNetForLesionClassification
from trainers.autoencoding.options import AutoencoderArguments
from trainers.autoencoding.train import build_model as build_autoencoder
from trainers.autoencoding.train import build_trainer as build_autoencoder_trainer
from trainers.model_folder.data import load_splits
from trainers.training.arguments import parse
from trainers.training.ensemble import run as run_members
from trainers.training.log import training_section
from trainers.training.resume import RunRecord, begin, read_record, settings
from trainers.training.train import build_model, build_trainer, run_trainer
from trainers.training.train import classifier as task_of
from trainers.training.train import run as run_training

# What a recipe says of workers and dropout is left as it is.
SMALL = ["--image_size", "32", "--per_device_train_batch_size", "16", "--disable_tqdm", "true", "--precision", "fp32"]
BY_EPOCH = ["--save_total_limit", "9", "--load_best_model_at_end", "false", "--num_train_epochs", "2"]
BY_STEP = [*BY_EPOCH, "--save_strategy", "steps", "--save_steps", "4"]


def classifier(dataset: Path, out: Path, more: list[str]) -> tuple[Any, ...]:
    words = ["--dataset", str(dataset), "--output_dir", str(out), "--train_image_size", "32"]
    words += ["--backbone_weights", "none", "--backbone", "test_efficientnet"]
    options, training, _ = parse([*SMALL, *words, *more], "mobilenet_cpu")
    splits = load_splits(options.dataset, options.config_name)
    set_seed(training.seed)
    model, processor = build_model(options, splits, MobileNetForLesionClassification)
    return build_trainer(model, processor, splits, options, training), options, training, splits, out


def autoencoder(dataset: Path, out: Path, more: list[str]) -> tuple[Any, ...]:
    small = '{"code_size": 8, "encoder_channels": [8, 16, 16]}'
    words = ["--dataset", str(dataset), "--output_dir", str(out), "--noise_std", "0.1", "--model_config", small]
    options, training, _ = parse([*SMALL, *words, *more], "autoencoder_cpu", AutoencoderArguments)
    training.metric_for_best_model = "psnr"
    splits = load_splits(options.dataset, options.config_name)
    set_seed(training.seed)
    model, processor = build_autoencoder(options)
    return build_autoencoder_trainer(model, processor, splits, options, training), options, training, splits, out


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (classifier, BY_EPOCH),
        (classifier, [*BY_STEP, "--gradient_accumulation_steps", "2", "--save_steps", "2"]),
        (autoencoder, BY_STEP),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(
    make: Any, options: list[str], phantom_dataset: Path, tmp_path: Path
) -> None:
    whole, given, training, splits, out = make(phantom_dataset, tmp_path / "whole", options)
    assert given.dropout > 0
    assert training.dataloader_num_workers > 0
    assert training.dataloader_persistent_workers
    run_trainer(whole, given, training, splits, out, None)
    assert multiprocessing.active_children() == []
    expected = {name: value.clone() for name, value in whole.model.state_dict().items()}
    steps = whole.state.max_steps // 2
    checkpoint = min((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    step = int(checkpoint.name[11:])
    assert step == steps if options is BY_EPOCH else 0 < step < steps
    # What the process drew before its first step must not matter.
    random.random(), np.random.rand(), torch.rand(3)
    again = make(phantom_dataset, tmp_path / "again", options)
    resumed = again[0]
    run_trainer(*again, str(checkpoint))
    assert "resumed" not in training_section(resumed)
    assert resumed.state.global_step == whole.state.global_step
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_resumed_run_uses_and_reports_a_changed_learning_rate(phantom_dataset: Path, tmp_path: Path) -> None:
    first = classifier(phantom_dataset, tmp_path / "first", [*BY_EPOCH, "--num_train_epochs", "1"])
    run_trainer(*first, None)
    checkpoint = next((tmp_path / "first").glob("checkpoint-*"))
    more = [*BY_EPOCH, "--num_train_epochs", "2", "--learning_rate", "1e-6", "--weight_decay", "0.5"]
    second = classifier(phantom_dataset, tmp_path / "second", more)
    run_trainer(*second, str(checkpoint))
    trainer = second[0]
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] < 1.2e-3
    assert 0 < max(rates[1:]) <= 1e-6
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.5, 0.0}
    section = training_section(trainer)
    changed = {"learning_rate": [1.2e-3, 1e-6], "num_train_epochs": [1.0, 2.0], "weight_decay": [0.02, 0.5]}
    assert section["resumed"] == [{"step": 6, "epoch": 1.0, "changed": changed}]
    # A later resume keeps what was reported, from the newest checkpoint's own record.
    kept = read_record(str(tmp_path / "second" / "checkpoint-12"))
    assert kept is not None
    assert (kept.resumed, kept.settings["learning_rate"]) == (section["resumed"], 1e-6)


def unfinished(out: Path, more: list[str]) -> list[str]:
    """Write the checkpoint of a run that was killed; returns its command line."""
    words = ["--output_dir", str(out), "--precision", "fp32", *more]
    options, training, _ = parse(words, "mobilenet_cpu")
    folder = out.with_name(out.name + ".partial") / "checkpoints" / "checkpoint-6"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 6, "epoch": 1.0}))
    (folder / "settings.json").write_text(RunRecord(settings(options, training), "sha256:0").to_json())
    (folder / "complete").touch()
    return words


@pytest.mark.parametrize(
    "changed",
    [
        "--seed 7",
        "--per_device_train_batch_size 16",
        "--gradient_accumulation_steps 2",
        "--optim sgd",
        "--backbone resnet18",
        "--dropout 0.3",
        "--sampling uniform",
        "--augmentation none",
        "--loss focal",
        "--ema_decay 0",
        "--config_name fold0",
        "--leave_out mel",
        "--image_size 64",
        "--early_stopping_patience 3",
    ],
)
def test_a_setting_that_must_stay_is_refused_by_name_before_the_dataset_is_loaded(changed: str, tmp_path: Path) -> None:
    words = [*unfinished(tmp_path / "out", []), "--dataset", str(tmp_path / "nothing"), *changed.split()]
    name = changed.split()[0].removeprefix("--")
    with pytest.raises(UserError, match=f"^{name} "):
        run_training(
            [*words, "--resume_from_checkpoint", "true"], "mobilenet_cpu", task_of(MobileNetForLesionClassification)
        )


def test_the_number_of_processes_and_the_dataset_must_stay(tmp_path: Path) -> None:
    words = unfinished(tmp_path / "out", [])
    checkpoint = str(tmp_path / "out.partial" / "checkpoints" / "checkpoint-6")
    options, training, _ = parse(words, "mobilenet_cpu")
    now = settings(options, training)
    with pytest.raises(UserError, match=r"^processes 4"):
        begin(RunRecord({**now, "processes": 4}, "sha256:0"), checkpoint)
    with pytest.raises(UserError, match="other rows"):
        begin(RunRecord(now, "sha256:1"), checkpoint)
    assert begin(RunRecord(now, "sha256:0"), checkpoint).resumed == []
    free = {"dataloader_num_workers": 0, "title": "Another", "output_dir": "elsewhere"}
    assert not set(free) & set(now)


def test_an_unfinished_run_of_one_member_is_compared(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "out"), "--precision", "fp32", "--dataset", str(tmp_path / "nothing")]
    member = tmp_path / "out.members" / "member_1"
    member.parent.mkdir()
    unfinished(member, [])
    again = ["--member", "1", "--resume_from_checkpoint", "true", "--seed", "8"]
    with pytest.raises(UserError, match=r"^\w+ .*checkpoint-6"):
        run_members([*words, *again], "ensemble_cpu")


def test_events_of_tensorboard_are_kept_beside_the_finished_folder(
    phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    more = ["--report_to", "tensorboard", "--max_steps", "1", "--logging_steps", "1"]
    run_trainer(*classifier(phantom_dataset, tmp_path / "out", more), None)
    (file,) = (tmp_path / "out.runs").iterdir()
    assert {"train/loss", "eval/macro_f1"} <= set(scalars(file))


def scalars(file: Path) -> dict[str, float]:
    """The last value of each scalar of an event file: records of length, checksum, event, checksum."""
    data, found, start = file.read_bytes(), {}, 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        event = Event.FromString(data[start + 12 : start + 12 + length])
        found |= {value.tag: value.simple_value for value in event.summary.value}
        start += 16 + length
    return found


@pytest.mark.parametrize(("make", "lone"), [(classifier, 1), (autoencoder, 0)])
def test_a_last_batch_of_one_image(make: Any, lone: int, phantom_dataset: Path, tmp_path: Path) -> None:
    more = ["--per_device_train_batch_size", "95", "--num_train_epochs", "1", "--sampling", "uniform"]
    trainer, *rest = make(phantom_dataset, tmp_path / "out", more)
    assert len(trainer.train_sampler) == 96 - lone
    run_trainer(trainer, *rest, None)
    assert trainer.state.global_step == 2 - lone


def test_batches_of_one_image_are_refused_only_where_they_cannot_be_trained_on(
    phantom_dataset: Path, tmp_path: Path
) -> None:
    one = ["--per_device_train_batch_size", "1"]
    with pytest.raises(UserError, match="per_device_train_batch_size 1"):
        classifier(phantom_dataset, tmp_path / "out", one)
    trainer = classifier(phantom_dataset, tmp_path / "out", [*one, "--image_size", "64", "--train_image_size", "64"])[0]
    means = {name: value for name, value in trainer.model.named_buffers() if name.endswith("running_mean")}
    assert len(trainer.train_sampler) > 96 - 1
    assert means
    assert all(bool((value == 0).all()) for value in means.values())
    more = ["--dataloader_drop_last", "true", "--per_device_train_batch_size", "500"]
    with pytest.raises(UserError, match="dataloader_drop_last"):
        classifier(phantom_dataset, tmp_path / "out", more)


@pytest.mark.parametrize(
    "words", ["--learning_rate 1e38 --warmup_steps 0", "--learning_rate 1e38 --warmup_steps 0 --max_steps 1"]
)
def test_a_diverged_run_names_its_step(words: str, train_command: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = train_command(out, *words.split())[2:]
    with pytest.raises(UserError, match=r"diverged at step \d+ of \d+: .*(nan|inf|NaN).* --learning_rate \(now 1e\+38"):
        run_training(command, "mobilenet", task_of(MobileNetForLesionClassification))
    assert not out.exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_no_weight_that_is_not_finite_is_saved(phantom_dataset: Path, tmp_path: Path) -> None:
    trainer = classifier(phantom_dataset, tmp_path / "out", [])[0]
    with torch.no_grad():
        next(trainer.model.parameters())[0] = float("nan")
    with pytest.raises(UserError, match="a weight is NaN or infinite"):
        trainer._save_checkpoint(trainer.model, None)
    assert not list(tmp_path.rglob("*.safetensors"))
