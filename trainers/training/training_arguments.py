"""``TrainingArguments`` with the suite's defaults, and the parser of both (importing this imports torch)."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import HfArgumentParser, TrainingArguments

from datasets_scripts.command import OneLineParser
from trainers.training.arguments import check_trainer_values


@dataclass
class LesionTrainingArguments(TrainingArguments):
    """``TrainingArguments`` with the suite's defaults.

    Differences from transformers' own: evaluation, saving and logging every epoch; the best epoch by validation
    macro-F1 is kept; at most two checkpoints; callbacks' state is restored on resume; cosine schedule, 10 % warm-up;
    AdamW with weight decay 0.01; ``layer_decay``; TF32 where the GPU has it; nothing is reported to any service or
    pushed by the Trainer itself.
    """

    output_dir: str = field(
        default="",
        metadata={"help": "Where the finished Hub folder appears; while training, work stands in OUTPUT_DIR.partial."},
    )
    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="epoch")
    logging_strategy: str = field(default="epoch")
    save_total_limit: int | None = field(default=2)
    load_best_model_at_end: bool = field(default=True)
    metric_for_best_model: str | None = field(default="macro_f1")
    greater_is_better: bool | None = field(default=True)
    restore_callback_states_from_checkpoint: bool = field(default=True)
    remove_unused_columns: bool = field(default=False)
    lr_scheduler_type: str = field(default="cosine")
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up: a share of all steps when below 1, else steps."}
    )
    weight_decay: float = field(default=0.01)
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor in (0, 1] of the learning rate from one layer to the one before it, towards the input; "
            "1 = every layer learns at the same rate."
        },
    )
    report_to: str = field(default="none")
    dataloader_num_workers: int = field(default=2)
    dataloader_persistent_workers: bool = field(default=True)

    def __post_init__(self) -> None:
        """As transformers; refuses a layer decay, or a length, that no run could mean.

        Raises:
            UserError: names the value and what it may be.
        """
        check_trainer_values(vars(self))
        super().__post_init__()


class OneLineHfParser(OneLineParser, HfArgumentParser):
    """A parser of dataclasses whose errors are one line, like every other error."""
