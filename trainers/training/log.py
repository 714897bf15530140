"""The record of a training run: its epochs, the one that was kept and why, its speed and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from datasets_scripts.command import UserError
from trainers.training.training_arguments import LesionTrainingArguments

# Of the validation split; the smaller, the better.
LOWER_IS_BETTER = ("loss", "nll")


def settle_metric(training: LesionTrainingArguments, known: Sequence[str]) -> None:
    """Check the metric that chooses the epoch, before the first one, and set its direction.

    Args:
        training: ``metric_for_best_model`` loses its ``eval_``; ``greater_is_better`` is set.
        known: what ``compute_metrics`` gives; the loss is always there.

    Raises:
        UserError: no such metric.
    """
    metric = str(training.metric_for_best_model).removeprefix("eval_")
    if metric not in (*known, "loss"):
        raise UserError(f"metric_for_best_model {metric!r} is unknown: choose one of {', '.join((*known, 'loss'))}")
    greater = metric not in LOWER_IS_BETTER
    if greater and training.greater_is_better is False:
        raise UserError(f"greater_is_better False: a greater {metric} is better; leave it out")
    training.metric_for_best_model = metric
    training.greater_is_better = greater


def training_section(trainer: Any) -> dict[str, Any]:
    """The ``training`` section of ``report.json``, from the Trainer's log and clock."""
    metric = trainer.args.metric_for_best_model
    kept_by_metric = trainer.args.load_best_model_at_end
    history = epoch_rows(trainer.state.log_history)
    evaluated = [row for row in history if f"eval_{metric}" in row]
    choose = max if trainer.args.greater_is_better else min
    best = choose(evaluated, key=lambda row: float(row[f"eval_{metric}"]))
    seconds = trainer.clock.seconds
    record = getattr(trainer, "record", None)
    resumed = record.resumed if record else []
    seen = len(trainer.train_sampler) * len(history)
    return {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "metric": metric,
        "best_metric": best[f"eval_{metric}"],
        "kept_epoch": best["epoch"] if kept_by_metric else history[-1]["epoch"],
        "kept_because": f"best validation {metric}" if kept_by_metric else "the last, by recipe",
        "train_seconds": round(seconds, 1),
        "images_per_second": round(seen / seconds, 2) if seconds else None,
        "peak_memory_bytes": trainer.clock.peak_memory_bytes,
        **({"resumed": resumed} if resumed else {}),
        "history": history,
    }


def epoch_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per epoch: ``epoch, train_loss, learning_rate`` and what the validation split gave."""
    rows: dict[int, dict[str, Any]] = {}
    names = {"loss": "train_loss", "learning_rate": "learning_rate"}
    losses: dict[int, list[tuple[float, int]]] = {}
    last_step = 0
    for entry in log:
        if "loss" not in entry and "eval_loss" not in entry:
            continue
        epoch = math.ceil(entry["epoch"] - 1e-6)  # what is logged within an epoch belongs to it
        row = rows.setdefault(epoch, {"epoch": epoch})
        row.update({names[key]: value for key, value in entry.items() if key in names})
        row.update({k: v for k, v in entry.items() if k.startswith("eval_") and not k.endswith(("runtime", "second"))})
        if "loss" in entry:
            step = int(entry.get("step", last_step + 1))
            losses.setdefault(epoch, []).append((entry["loss"], max(1, step - last_step)))
            last_step = step
            row["train_loss"] = sum(loss * steps for loss, steps in losses[epoch]) / sum(n for _, n in losses[epoch])
    return [rows[key] for key in sorted(rows)]
