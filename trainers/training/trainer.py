"""The Trainer of the suite: its loss, its sampler, averaged weights, and a clock that survives a resume."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from datasets_scripts.command import UserError
from hub_models.trust_lesion import NotFiniteError
from trainers.evaluation.trainer_metrics import DivergedError
from trainers.model_folder.data import EpochSampler
from trainers.training.batches import to_pixel_values

EMA_FILE = "ema.safetensors"
SETTINGS_FILE = "settings.json"
# With fp16, loss scaling leaves out a step whose loss is not finite, and recovers; so many in a row it does not.
BAD_LOSSES = 20
COMPLETE_FILE = "complete"  # written last: a checkpoint without it was killed half-way


class LesionTrainer(Trainer):
    """A ``Trainer`` that takes its loss and sampler from the recipe and can average weights.

    With ``ema_decay`` > 0 an exponential moving average of the weights (Polyak averaging, with timm's warm-up of the
    decay) is evaluated, chosen by and kept; the raw weights stay in each checkpoint, so that a resumed run continues
    exactly.

    Args:
        loss: ``loss(logits (N, C), labels (N,)) -> scalar``.
        train_sampler: yields what the training dataset is indexed by.
        ema_decay: decay per step in [0, 1); 0 = off.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        loss: Callable[[Tensor, Tensor], Tensor],
        train_sampler: EpochSampler,
        ema_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._refuse_what_cannot_be(ema_decay)
        self.model_class: Any = type(self.model)  # sharding puts a class of its own in its place
        self.loss = loss
        self.train_sampler = train_sampler
        self.ema: ModelEmaV3 | None = None
        self.record: Any = None  # a RunRecord, written into each checkpoint
        self._seeded = (-1, 0)  # step, and the batch within it
        self._bad_losses = 0
        self._settle_last_batch()
        self.add_callback(RunClock())
        self.add_callback(_EpochCallback(train_sampler))
        if ema_decay:
            self.ema = ModelEmaV3(self.model, decay=ema_decay, use_warmup=True)
            self.add_callback(_EmaCallback(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; afterwards the model holds the weights to keep, the average where there is one."""
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._end_workers()
        if self.ema is not None:  # no best checkpoint was loaded: the last average stays
            self.accelerator.unwrap_model(self.model).load_state_dict(self.ema.module.state_dict())
            self.ema = None
        return output

    def _end_workers(self) -> None:
        """End the persistent workers; a collection of garbage closes their queues first, then waits 5 s for each."""
        for loader in self.accelerator._dataloaders:
            base = getattr(loader, "base_dataloader", loader)
            if base._iterator is not None:
                base._iterator._shutdown_workers()
                base._iterator = None

    def _refuse_what_cannot_be(self, ema_decay: float) -> None:
        """Name options that this model or this launch cannot have, before anything runs.

        Raises:
            UserError: checkpointing of activations without layers that know it; averaged weights of a sharded model.
        """
        model: Any = self.model
        if self.args.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise UserError(
                f"gradient_checkpointing true: {type(model).__name__} has no layers that can be computed again; "
                "leave it out, or make per_device_train_batch_size smaller"
            )
        if self.is_fsdp_enabled:
            if any("lora_" in name for name, _ in model.named_parameters()):
                raise UserError("lora_rank: adapters of sharded weights (FSDP) cannot be merged; set lora_rank 0")
            if ema_decay:
                raise UserError(f"ema_decay {ema_decay!r}: sharded weights (FSDP) cannot be averaged; set ema_decay 0")
            model.to(memory_format=torch.contiguous_format)  # fully_shard splits contiguous tensors only

    def _settle_last_batch(self) -> None:
        """Leave out the last image of each epoch where it would be a batch of one that cannot be trained on.

        Raises:
            UserError: every batch holds one image, or dropping incomplete batches leaves none.
        """
        images, batch, processes = len(self.train_sampler), self.args.train_batch_size, self.args.world_size
        if self.args.dataloader_drop_last and images < batch * processes:
            raise UserError(
                f"dataloader_drop_last true: an epoch has {images} images, fewer than one step takes "
                f"({batch * processes}); give a smaller per_device_train_batch_size"
            )
        # With several processes an incomplete batch is filled up.
        last_of_one = processes == 1 and images % batch == 1 and not self.args.dataloader_drop_last
        if not (batch == 1 or last_of_one) or self._takes_one_image():
            return
        why = "batch normalisation cannot train on a batch of one image at this image size"
        if batch == 1:
            raise UserError(f"per_device_train_batch_size 1: {why}; give at least 2, or a larger image_size")
        if images == 1:
            raise UserError(f"the train split has 1 image, and {why}: give more images")
        self.train_sampler.left_out = 1
        print(f"each epoch leaves out one image ({images} images in batches of {batch}): {why}", flush=True)

    def _takes_one_image(self) -> bool:
        """Whether the model, in training mode, takes a batch of one; its buffers are left as they are."""
        model: Any = self.model
        if not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            return True
        dataset: Any = self.train_dataset
        item: Any = self.data_collator([dataset[next(iter(self.train_sampler))]])
        item = self._prepare_inputs(item)
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        was_training = model.training
        model.train()
        try:
            with torch.no_grad():
                model(**{name: value for name, value in item.items() if name != "labels"})
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return False
        finally:
            model.train(was_training)
            with torch.no_grad():
                for name, value in model.named_buffers():
                    value.copy_(buffers[name])
        return True

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As the Trainer does; ``dataloader_drop_last`` is for training: no validation image is dropped."""
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As the Trainer does; with ``layer_decay`` below 1, each of the model's layer groups at its own rate.

        Norms and biases keep no weight decay either way; the Trainer names them.
        """
        decay = getattr(self.args, "layer_decay", 1.0)
        if self.optimizer is None and decay != 1.0:
            ours: Any = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, ours)
            names = self.get_decay_parameter_names(ours)
            options["params"] = parameter_groups(ours, options["lr"], decay, self.args.weight_decay, set(names))
            self.optimizer_cls_and_kwargs = (kind, options)
        return super().create_optimizer(model)

    def whole_model(self) -> Any:
        """The trained model, unsharded, on the first process; None on the others. Every process must call this."""
        first = self.accelerator.is_main_process
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model) if first else None
        state = self.accelerator.get_state_dict(self.model)
        if not first:
            return None
        model: Any = self.model_class(self.accelerator.unwrap_model(self.model).config)
        model.load_state_dict(state)
        return model.to(self.accelerator.device)

    @property
    def clock(self) -> RunClock:
        """The run's clock; looked up, since a resume puts a restored one in the first one's place."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, RunClock))

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """As the Trainer does; dropout and noise follow from (seed, step, batch of the step, process) alone.

        So a resumed run draws what an uninterrupted one does. The generators' states in a checkpoint do not ensure it:
        a new iterator of a data loader draws a number, and one of persistent workers that goes on does not.
        """
        step = self.state.global_step
        self._seeded = (step, self._seeded[1] + 1 if self._seeded[0] == step else 0)
        set_seed(one_seed(self.args.seed, *self._seeded, self.args.process_index))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._bad_losses = 0 if torch.isfinite(loss).all() else self._bad_losses + 1
        if self._bad_losses >= (1 if self.accelerator.scaler is None else BAD_LOSSES):
            raise self.diverged(f"the loss is {float(loss)}")
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As the Trainer does, to the device; there colour and normalisation of augmented batches."""
        return to_pixel_values(super()._prepare_inputs(inputs))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load nothing: each step has its own seed, and a killed run may have left half a file of states."""
        return

    def diverged(self, what: str) -> UserError:
        """The error of a run that goes on to no result: its step, what is not finite, and what to do."""
        kept = newest_checkpoint(Path(str(self.args.output_dir)))
        go_on = "; with --resume_from_checkpoint true it goes on from the last checkpoint" if kept else ""
        return UserError(
            f"training diverged at step {self.state.global_step} of {self.state.max_steps}: {what}; lower "
            f"--learning_rate (now {self.args.learning_rate}) or train with --precision fp32{go_on}"
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The recipe's loss on raw logits; the Trainer divides it by the gradient accumulation steps.

        Members (N, M, C) are each held to the label on their own: their losses are averaged, not their answers.
        """
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits, labels = outputs.raw_logits, inputs["labels"]
        if logits.ndim == 3:
            labels = labels.repeat_interleave(logits.shape[1])
            logits = logits.flatten(0, 1)
        loss = self.loss(logits, labels)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self.train_sampler

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the averaged weights where there are some.

        Raises:
            UserError: a logit that is NaN or infinite.
        """
        try:
            with self._averaged_weights():
                return super().evaluation_loop(*args, **kwargs)
        except (DivergedError, NotFiniteError) as error:
            # What to do is another thing here than for a model that was loaded.
            raise self.diverged(f"{str(error).partition(' infinite')[0]} infinite") from error

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        if self.ema is None:
            yield
            return
        model = self.accelerator.unwrap_model(self.model)
        raw = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.ema.module.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(raw)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As the Trainer does, with the average and the run's settings; marked as complete at the end.

        Raises:
            UserError: a weight is NaN or infinite: the checkpoint before it is the one to go on from.
        """
        weights: Any = self.model
        if not self.is_fsdp_enabled and not all(bool(torch.isfinite(value).all()) for value in weights.parameters()):
            raise self.diverged("a weight is NaN or infinite")
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.ema is not None and self.args.should_save:
            save_file({k: v.contiguous() for k, v in self.ema.module.state_dict().items()}, folder / EMA_FILE)
        if self.args.should_save:
            if self.record is not None:
                (folder / SETTINGS_FILE).write_text(self.record.to_json(), encoding="utf-8")
            (folder / COMPLETE_FILE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema is not None:
            self.ema.module.load_state_dict(load_file(Path(resume_from_checkpoint) / EMA_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the Trainer does; the rates, decays and moments are those of this command, not the checkpoint's."""
        optimizer: Any = self.optimizer
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        base = list(getattr(self.lr_scheduler, "base_lrs", []))
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not base:
            return
        schedule: Any = self.lr_scheduler
        schedule.base_lrs = base
        schedule._last_lr = [rate * of(schedule.last_epoch) for rate, of in zip(base, schedule.lr_lambdas, strict=True)]
        for group, ours, rate in zip(optimizer.param_groups, groups, schedule._last_lr, strict=True):
            group.update({**ours, "lr": rate})

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            best = load_file(Path(str(self.state.best_model_checkpoint)) / EMA_FILE)
            self.accelerator.unwrap_model(self.model).load_state_dict(best)
            self.ema = None  # from here on the model is the average; nothing is left to swap in


def one_seed(*numbers: int) -> int:
    """A seed in [0, 2^32) that follows from all numbers, each at least 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class _EpochCallback(TrainerCallback):
    """Gives the sampler the number of the epoch, which the loader of a resumed epoch may not reach; logs its end."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))

    def on_epoch_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log = True  # the report has the loss of every epoch, whatever is logged within it


class _EmaCallback(TrainerCallback):
    """Updates the average after each optimizer step (and restarts its step count on resume)."""

    def __init__(self, trainer: LesionTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.ema is not None:
            self.trainer.ema.update(self.trainer.accelerator.unwrap_model(self.trainer.model), step=state.global_step)


class RunClock(TrainerCallback, ExportableState):
    """Seconds spent training (evaluation left out) and the peak memory, summed over resumes."""

    def __init__(self, seconds: float = 0.0, peak_memory_bytes: int = 0) -> None:
        self.seconds = seconds
        self.peak_memory_bytes = peak_memory_bytes
        self._since: float | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, the running epoch's share included."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        seconds = self.seconds + running
        return {"args": {}, "attributes": {"seconds": seconds, "peak_memory_bytes": self.peak_memory_bytes}}

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_epoch_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory())


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where one is used, else of this process (resident)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)  # kilobytes on Linux, bytes on macOS


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps in a folder, which need not exist; None where there is none."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE_FILE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def layer_rates(groups: list[list[str]], learning_rate: float, layer_decay: float) -> dict[str, float]:
    """The learning rate of each parameter: the last group's is ``learning_rate``, each earlier one's a decay smaller.

    Rate of group i of L: ``learning_rate * layer_decay ** (L - 1 - i)`` (Clark et al. 2020, ELECTRA; Bao et al. 2022,
    BEiT, for vision transformers).

    Args:
        groups: parameter names from the input to the output.
        learning_rate: > 0.
        layer_decay: in (0, 1].
    """
    last = len(groups) - 1
    return {name: learning_rate * layer_decay ** (last - i) for i, group in enumerate(groups) for name in group}


def parameter_groups(
    model: Any, learning_rate: float, layer_decay: float, weight_decay: float, decayed: Collection[str]
) -> list[dict[str, Any]]:
    """What an optimizer takes: parameters by learning rate and weight decay, the output's layers first.

    The first group's rate is the one that the Trainer logs: the full one, since the head is always trained.

    Args:
        model: answers ``layer_groups()``; parameters without gradients are left out.
        learning_rate: of the last layers, > 0.
        layer_decay: factor per group towards the input, in (0, 1].
        weight_decay: >= 0.
        decayed: names of the parameters that weight decay shrinks (no norms, no biases).

    Returns:
        Dictionaries with ``params``, ``lr`` and ``weight_decay``.

    Raises:
        ValueError: the model's groups leave out a parameter, or name one twice or one that it does not have.
    """
    groups = model.layer_groups()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    named = Counter(name for group in groups for name in group)
    wrong = sorted(set(named) ^ {name for name, _ in model.named_parameters()}) + [n for n in named if named[n] > 1]
    if wrong:
        raise ValueError(
            f"layer_groups() of {type(model).__name__} must name each parameter once; wrong is first {wrong[0]!r}"
        )
    rates = layer_rates(groups, learning_rate, layer_decay)
    found = []
    for group in reversed(groups):
        for shrinks in (True, False):
            names = [name for name in group if name in trained and (name in decayed) == shrinks]
            if names:
                values = [trained[name] for name in names]
                found.append(
                    {"params": values, "lr": rates[names[0]], "weight_decay": weight_decay if shrinks else 0.0}
                )
    return found
