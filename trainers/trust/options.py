"""Options of a fit of trust; every training run uses the defaults."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

from datasets_scripts.command import UserError

# The names of the shipped code and of trainers.trust.temperature (a test compares them): --help must not import torch.
INFERENCES = ("plain", "tta", "mc_dropout", "mc_dropout_full")
METHODS = ("lac", "aps", "raps")
DETECTORS = (
    "max_softmax",
    "max_logit",
    "energy",
    "mahalanobis",
    "nearest_neighbours",
    "vim",
    "early_mahalanobis",
)
DECISIONS = ("most_probable", "balanced", "cost", "sensitivity")
KINDS = ("scalar", "vector", "bias_corrected")

AUTO = "auto"


@dataclass(frozen=True)
class TrustOptions:
    """Options of ``python -m trainers.fit_trust``."""

    temperature: str = field(
        default="scalar",
        metadata={
            "help": "scalar (one T), bias_corrected (T and a bias per class) or vector (a scale and a bias per class)."
        },
    )
    detector: str = field(
        default=AUTO,
        metadata={
            "help": "The out-of-distribution detector: auto (the one that best separates perturbed calibration "
            f"images from the originals), {', '.join(DETECTORS)}."
        },
    )
    acceptance: float = field(
        default=0.95, metadata={"help": "Share of calibration images that the gate accepts, in (0, 1)."}
    )
    sets: str = field(default="lac", metadata={"help": "Score of the prediction sets: lac, aps or raps."})
    class_conditional: bool = field(
        default=True, metadata={"help": "A quantile for each class (every class keeps the promise), or one for all."}
    )
    alpha: float = field(
        default=0.1, metadata={"help": "Share of lesions whose set may miss the true class, in (0, 1)."}
    )
    low_risk: float = field(default=0.05, metadata={"help": "Largest error promised for the low band, in (0, 1)."})
    moderate_risk: float = field(
        default=0.1, metadata={"help": "Largest error promised for the low and moderate bands together, in (0, 1)."}
    )
    low_missed: float = field(
        default=0.05,
        metadata={
            "help": "Largest share of all malignant lesions that may be called benign in the low band, in (0, 1]; 1 "
            "promises nothing about it."
        },
    )
    moderate_missed: float = field(
        default=0.1,
        metadata={"help": "The same in the low and moderate bands together, in (0, 1]."},
    )
    confidence: float = field(default=0.9, metadata={"help": "Confidence of the bands' promises, in (0, 1)."})
    decision: str = field(
        default="most_probable",
        metadata={
            "help": "The rule that names the class: most_probable, balanced (each class at equal prior), cost (the "
            "least expected cost) or sensitivity (the most probable class, the flag of malignancy first). balanced and "
            "cost want --temperature bias_corrected where training was not at the classes' own frequencies."
        },
    )
    sensitivity: float = field(
        default=0.9, metadata={"help": "Share of malignant lesions that the flag of malignancy finds, in (0, 1)."}
    )
    cost: str = field(
        default="10",
        metadata={
            "help": "Costs of the rule cost: a number (what calling a malignant lesion benign costs, where any other "
            "confusion costs 1), or a JSON or CSV file of C rows (true class) and C columns (named class)."
        },
    )
    max_set_size: int = field(
        default=3, metadata={"help": "A larger set is no answer: the model declines (at most C - 1 is used)."}
    )
    subgroup_column: str = field(
        default="",
        metadata={
            "help": "Fit prediction sets and bands for each group of this column: age_band, sex, site or source; a "
            "group of too few lesions takes those of all groups together. Empty: one fit for all."
        },
    )
    inference: str = field(default="plain", metadata={"help": f"How the model is to be run: {', '.join(INFERENCES)}."})
    shifted_images: int = field(
        default=128, metadata={"help": "Calibration images that are perturbed in each way to choose the detector."}
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the halves, of the image drawn for each lesion, and so on."}
    )

    def __post_init__(self) -> None:
        """Refuse values that no fit could mean.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        for name in ("acceptance", "alpha", "low_risk", "moderate_risk", "confidence", "sensitivity"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: give a number between 0 and 1, both excluded")
        for name in ("low_missed", "moderate_missed"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: give a share above 0, or 1 for no promise")
        for low, moderate in (("low_risk", "moderate_risk"), ("low_missed", "moderate_missed")):
            if getattr(self, low) > getattr(self, moderate):
                raise UserError(
                    f"{low} {getattr(self, low)} is above {moderate} {getattr(self, moderate)}: the low band promises "
                    "more, so give it the smaller one"
                )
        for name in ("max_set_size", "shifted_images"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: give at least 1")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: give 0 or more")
        choices = {
            "temperature": KINDS,
            "detector": (AUTO, *DETECTORS),
            "sets": METHODS,
            "decision": DECISIONS,
            "inference": INFERENCES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")


def add_options(
    parser: ArgumentParser,
    left_out: Collection[str] = (),
    *,
    of_model: bool = False,
    others: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Add an option for each field of :class:`TrustOptions`.

    Args:
        parser: the command line.
        left_out: fields without an option.
        others: field -> other names of its option.
        of_model: the default is None, which stands for the value of the model's own trust.
    """
    for option in fields(TrustOptions):
        if option.name in left_out:
            continue
        default = "the model's own" if of_model else "%(default)s"
        text = f"{option.metadata['help']} (default {default})".replace("% ", "%% ")
        kind = (
            {"type": truth, "metavar": "true|false"}
            if isinstance(option.default, bool)
            else {"type": type(option.default)}
        )
        names = [f"--{option.name}", *(others or {}).get(option.name, ())]
        parser.add_argument(*names, default=None if of_model else option.default, help=text, **kind)


def truth(text: str) -> bool:
    """``true`` or ``false``, in any capitals."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
