"""Run by the tests of several processes, on each of them: a train script as it is, and what its Trainer saw.

Usage: process_worker.py FOLDER SCRIPT [OPTION ...]. Writes FOLDER/rank<r>_run<k>.pt for the k-th Trainer of the script.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trainers.training.trainer import LesionTrainer


class Watched(Dataset):
    """A training dataset that records the index of each requested image, in order."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.requested: list[int] = []

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        self.requested.append(int(key[0]))
        return self.dataset[key]


class WatchedTrainer(LesionTrainer):
    """The Trainer, with every batch's loss, every gathered evaluation and the weights after the last step."""

    runs = 0

    def __init__(self, *args: Any, train_dataset: Dataset, **kwargs: Any) -> None:
        self.watched = Watched(train_dataset)
        self.losses: list[float] = []
        self.evaluations: list[dict[str, Any]] = []
        self.last: dict[str, torch.Tensor] = {}
        super().__init__(*args, train_dataset=self.watched, **kwargs)
        self.add_callback(KeepLast(self))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.losses.append(float((answer[0] if isinstance(answer, tuple) else answer).detach()))
        return answer

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        result = {"n": output.num_samples, "labels": output.label_ids.tolist(), "metrics": dict(output.metrics)}
        self.evaluations.append(result)
        return output

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        kept = self.accelerator.unwrap_model(self.model)
        seen = {
            "processes": self.args.world_size,
            "requested": self.watched.requested,
            "images": len(self.watched),
            "validation": self.eval_dataset.labels.tolist(),
            "losses": self.losses,
            "evaluations": self.evaluations,
            "last": self.last,
            "kept": {name: value.detach().clone() for name, value in kept.named_parameters()},
        }
        torch.save(seen, FOLDER / f"rank{self.args.process_index}_run{WatchedTrainer.runs}.pt")
        WatchedTrainer.runs += 1
        return output


class KeepLast(TrainerCallback):
    """Keeps a copy of the parameters after each step, for the last of them."""

    def __init__(self, trainer: WatchedTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            self.trainer.last = {name: value.detach().clone() for name, value in model.named_parameters()}


FOLDER = Path(sys.argv[1])

if __name__ == "__main__":
    import trainers.training.train

    trainers.training.train.LesionTrainer = WatchedTrainer  # type: ignore[misc]
    os.chdir(FOLDER)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
