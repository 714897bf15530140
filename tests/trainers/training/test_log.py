"""The record of a run follows the metric that chose its epoch; a metric that cannot choose is refused first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import EvalPrediction

from datasets_scripts.command import UserError
from trainers.autoencoding.options import AutoencoderArguments
from trainers.autoencoding.train import settle
from trainers.evaluation.trainer_metrics import TRAINER_METRICS, trainer_metrics
from trainers.training.arguments import parse
from trainers.training.log import settle_metric, training_section

LOG: list[dict[str, Any]] = [
    {"epoch": 1.0, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 3.0},
    {"epoch": 1.0, "eval_loss": 1.5, "eval_nll": 1.5, "eval_macro_f1": 0.5, "eval_runtime": 9.0},
    {"epoch": 2.0, "loss": 1.0, "learning_rate": 0.05},
    {"epoch": 2.0, "eval_loss": 1.1, "eval_nll": 1.1, "eval_macro_f1": 0.3, "eval_samples_per_second": 9.0},
    {"epoch": 3.0, "loss": 0.5, "learning_rate": 0.0},
    {"epoch": 3.0, "eval_loss": 1.2, "eval_nll": 1.2, "eval_macro_f1": 0.4},
    {"epoch": 3.0, "train_runtime": 20.0},
]


def ended(metric: str, keep_best: bool = True) -> Any:
    training = SimpleNamespace(metric_for_best_model=metric, greater_is_better=True, load_best_model_at_end=keep_best)
    settle_metric(training, TRAINER_METRICS)  # type: ignore[arg-type]
    clock = SimpleNamespace(seconds=20.0, peak_memory_bytes=7)
    return SimpleNamespace(args=training, state=SimpleNamespace(log_history=LOG), clock=clock, train_sampler=range(40))


@pytest.mark.parametrize(
    ("metric", "epoch", "value"),
    [("macro_f1", 1, 0.5), ("nll", 2, 1.1), ("eval_loss", 2, 1.1), ("eval_macro_f1", 1, 0.5)],
)
def test_the_best_epoch_is_the_metrics(metric: str, epoch: int, value: float) -> None:
    message = training_section(ended(metric))
    name = metric.removeprefix("eval_")
    assert (message["metric"], message["best_epoch"], message["best_metric"]) == (name, epoch, value)
    assert (message["kept_epoch"], message["kept_because"]) == (epoch, f"best validation {name}")
    assert message["images_per_second"] == 40 * 3 / 20
    assert message["history"][0] == {
        "epoch": 1,
        "train_loss": 2.0,
        "learning_rate": 0.1,
        "eval_loss": 1.5,
        "eval_nll": 1.5,
        "eval_macro_f1": 0.5,
    }
    last = training_section(ended(metric, keep_best=False))
    assert (last["kept_epoch"], last["kept_because"]) == (3, "the last, by recipe")


def test_the_names_are_those_that_are_computed() -> None:
    logits, labels = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    found = trainer_metrics(["a", "b"])(EvalPrediction(predictions=logits, label_ids=labels))
    assert tuple(found) == TRAINER_METRICS


def test_what_cannot_choose_or_train_is_refused_first(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "out"), "--precision", "fp32"]
    _, training, _ = parse([*words, "--metric_for_best_model", "foo"], "mobilenet")
    with pytest.raises(UserError, match=r"metric_for_best_model 'foo' is unknown: choose one of accuracy, .*nll, loss"):
        settle_metric(training, TRAINER_METRICS)
    options, coding, _ = parse([*words, "--metric_for_best_model", "nll"], "autoencoder_cpu", AutoencoderArguments)
    with pytest.raises(UserError, match=r"metric_for_best_model 'nll' is unknown: choose one of psnr, ssim, loss"):
        settle(options, coding)
    for value in ("0", "-1"):
        with pytest.raises(UserError, match=rf"num_train_epochs {float(value)}: give more than 0, or max_steps"):
            parse([*words, "--num_train_epochs", value], "mobilenet")
    assert not list(tmp_path.iterdir())
