"""The options of a training command, in order of precedence: command line, recipe, defaults.

A recipe is a sparse YAML file of the same names as the command line's options; unknown names are refused.
Importing this file imports neither torch nor transformers, so that a misspelt option is refused at once.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import yaml

from datasets_scripts.command import UserError, did_you_mean
from datasets_scripts.rows import Columns
from trainers.training.inherited import REFUSED, check, refuse
from trainers.training.input_arguments import PIPELINES, InputArguments

if TYPE_CHECKING:
    from trainers.training.training_arguments import LesionTrainingArguments

RECIPES = Path(__file__).parents[1] / "recipes"
# Facts of a recipe about its own model, on its own dataset.
IDENTITY = ("name", "title", "license", "citation", "follows")
# Names of model_folder.evaluate and .perturbations and of evaluation.robustness (a test compares them): --help imports
# no torch.
EVALUATED_SPLITS = ("validation", "calibration", "test")
CORRUPTIONS = (
    "defocus_blur",
    "motion_blur",
    "gaussian_noise",
    "brightness",
    "contrast",
    "jpeg",
    "white_balance",
    "hairs",
)
SEVERITIES = (1, 2, 3)
VIEWS = ("aspect", "scale", "turn")
SAMPLING = ("uniform", "oversample", "square_root")
AUGMENTATIONS = ("none", "flips_rotation", "crops_colour", "wide_crops")
RESIZE_MODES = ("squash", "crop", "pad")
LOSSES = ("cross_entropy", "focal")
CLASS_WEIGHTS = ("none", "balanced")
WEIGHTS_DTYPES = ("float32", "float16")
PRECISIONS = ("auto", "fp16", "bf16", "fp32")
# What `accelerate launch` sets from its config file or --mixed_precision; "no" where neither is set.
LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"


@dataclass
class LesionArguments(InputArguments):
    """The suite's own options; everything else is a field of ``transformers.TrainingArguments``."""

    dataset: str = field(
        default="",
        metadata={
            "help": "Dataset folder written by a build_* command, a folder with a folder of images for each class, or "
            "a Hub dataset id. Splits that it lacks are made of its train split."
        },
    )
    config_name: str = field(
        default="grouped",
        metadata={
            "help": "The dataset's config: grouped (no lesion in two splits), published, fold0..fold4; where it has "
            "one config alone, that one."
        },
    )
    image_column: str = field(
        default="", metadata={"help": "Column of the images in a dataset of other names (usually image)."}
    )
    label_column: str = field(default="", metadata={"help": "Column of the classes, text or numbers (usually label)."})
    group_column: str = field(
        default="",
        metadata={
            "help": "Column whose images are never put into two splits, such as patient_id (usually group_id, else "
            "patient_id, else lesion_id)."
        },
    )
    leave_out: str = field(
        default="",
        metadata={
            "help": "Classes to leave out, separated by commas; how often the finished model declines their images "
            "stands in its report."
        },
    )
    dataset_command: str = field(
        default="", metadata={"help": "The command that builds the recipe's dataset (shown when it is missing)."}
    )
    name: str = field(default="", metadata={"help": "Short name of the model, used in the card."})
    title: str = field(default="", metadata={"help": "Title of the card."})
    license: str = field(
        default="",
        metadata={"help": "Licence of the weights (a Hub licence id), usually the dataset's; empty = not stated."},
    )
    citation: str = field(
        default="", metadata={"help": "How to cite the model and its images: BibTeX, or a file that holds it."}
    )
    follows: str = field(
        default="", metadata={"help": "The published system a recipe follows (cited in the card), e.g. derm-x."}
    )
    backbone: str = field(default="", metadata={"help": "timm name of the backbone."})
    model_config: str = field(
        default="",
        metadata={
            "help": "Further fields of the model's configuration as JSON (in a recipe: as a mapping), "
            "e.g. '{\"freeze_backbone\": true}'."
        },
    )
    backbone_weights: str = field(
        default="timm",
        metadata={
            "help": "Where the backbone starts: timm (the Hub), none (random), or a local .safetensors file, such as "
            "model.safetensors of a finished model; for a ViT, a Hub repo id or folder of transformers; for late "
            "fusion, those of a trained image model."
        },
    )
    metadata_weights: str = field(
        default="", metadata={"help": "Late fusion only: folder or repo id of the metadata-only model to start from."}
    )
    dropout: float = field(default=0.2, metadata={"help": "Dropout before the linear head, probability in [0, 1)."})
    image_size: int = field(default=224, metadata={"help": "Side of the finished model's square input, pixels."})
    train_image_size: int = field(
        default=0,
        metadata={
            "help": "Side while training and choosing the epoch, pixels; 0 = image_size. Random crops enlarge lesions: "
            "a somewhat larger image_size than this can do better, for less training (Touvron et al. 2019)."
        },
    )
    resize_mode: str = field(
        default="squash",
        metadata={
            "help": "How an image of another shape comes to image_size: squash (changes its shape, as published), crop "
            "(its centre) or pad (adds a border)."
        },
    )
    augmentation: str = field(
        default="flips_rotation",
        metadata={
            "help": "Training augmentation: none, flips_rotation, crops_colour or wide_crops (crops of a third of the "
            "image and more)."
        },
    )
    hair_removal: bool = field(default=False, metadata={"help": "Remove hair before everything else (needs OpenCV)."})
    lesion_crop: bool = field(
        default=False, metadata={"help": "Crop to the lesion before everything else (needs OpenCV)."}
    )
    colour_constancy: bool = field(
        default=False, metadata={"help": "Even out the light's colour before everything else (shades of grey)."}
    )
    sampling: str = field(
        default="uniform",
        metadata={
            "help": "uniform (each image once), oversample (each class to the largest one's count) or square_root."
        },
    )
    loss: str = field(default="cross_entropy", metadata={"help": "cross_entropy or focal."})
    class_weights: str = field(default="none", metadata={"help": "none or balanced, n / (C n_c)."})
    focal_gamma: float = field(default=2.0, metadata={"help": "Focusing parameter of the focal loss, >= 0."})
    ema_decay: float = field(
        default=0.0, metadata={"help": "Decay a step of the weights' moving average, in [0, 1); 0 switches it off."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Epochs without a better validation macro-F1 before stopping; 0 never stops."}
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "fp16, bf16, fp32, or auto: the precision of accelerate launch, else fp16 on CUDA, bf16 on CPUs "
            "that have it, fp32."
        },
    )
    weights_dtype: str = field(
        default="float32",
        metadata={"help": "How the finished weights are stored: float32 or float16 (half the bytes)."},
    )
    bootstrap_replicates: int = field(
        default=1000, metadata={"help": "Replicates of the bootstrap behind the report's 95 %% intervals."}
    )
    keep_features: bool = field(
        default=True, metadata={"help": "Keep pooled features in the predictions files (a release leaves them out)."}
    )
    # The value of image_size that stands for the backbone's own; -1 = none does.
    own_size: ClassVar[int] = -1
    # Which of IDENTITY the recipe sets and the command line does not, and the command that builds the recipe's dataset.
    of_recipe: tuple[str, ...] = field(default=(), init=False)
    recipe_builder: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Refuse values that no run could mean.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        allowed = {
            "dropout": (0 <= self.dropout < 1, "give a probability in [0, 1)"),
            "ema_decay": (0 <= self.ema_decay < 1, "give a number in [0, 1); 0 switches it off"),
            "focal_gamma": (self.focal_gamma >= 0, "give a number of at least 0"),
            "early_stopping_patience": (self.early_stopping_patience >= 0, "give a number of epochs, or 0 for never"),
            "image_size": (
                32 <= self.image_size <= 4096 or self.image_size == self.own_size,
                "give a side of 32 to 4096 pixels",
            ),
            "train_image_size": (
                self.train_image_size == 0 or 32 <= self.train_image_size <= 4096,
                "give 0 or 32 to 4096",
            ),
            "bootstrap_replicates": (self.bootstrap_replicates >= 1, "give at least 1"),
            "weights_dtype": (self.weights_dtype in WEIGHTS_DTYPES, f"choose one of {', '.join(WEIGHTS_DTYPES)}"),
        }
        for name, (fine, advice) in allowed.items():
            if not fine:
                raise UserError(f"{name} {getattr(self, name)!r}: {advice}")
        for name, known in self.choices().items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(known)}")

    def backbone_fields(self) -> dict[str, Any]:
        """The fields of the model's configuration that the backbone decides; empty = its own default."""
        return {"backbone": self.backbone} if self.backbone else {}

    def pixel_statistics(self) -> tuple[list[float], list[float]] | None:
        """Channel mean and deviation that were given; None = those of the first weights."""
        return None

    @property
    def columns(self) -> Columns:
        """Which columns of the dataset mean what."""
        return Columns(self.image_column, self.label_column, self.group_column)

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Option -> the values that it may have."""
        return {
            "augmentation": AUGMENTATIONS,
            "input_pipeline": PIPELINES,
            "resize_mode": RESIZE_MODES,
            "class_weights": CLASS_WEIGHTS,
            "loss": LOSSES,
            "precision": PRECISIONS,
            "sampling": SAMPLING,
        }


@dataclass
class EnsembleArguments(LesionArguments):
    """The options of every classifier, and two of the ensemble's own.

    ``--backbone`` and ``--backbone_weights`` may be lists separated by commas: member i takes entry i, and starts
    again after the last.
    """

    members: int = field(
        default=5, metadata={"help": "Number of members K, at least 1; member i trains from seed + i."}
    )
    member: int | None = field(
        default=None,
        metadata={"help": "Train this member alone, 0 to K-1 (another process or machine trains the others)."},
    )
    members_from: str = field(
        default="",
        metadata={
            "help": "Train nothing: put these finished models together, folders separated by commas. Each was trained "
            "on the train split of this dataset."
        },
    )
    mc_dropout_samples: int = field(
        default=30, metadata={"help": "Passes of MC dropout in the comparison of methods; 0 leaves that row out."}
    )

    def __post_init__(self) -> None:
        """Refuse values that no run could mean.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        super().__post_init__()
        if self.mc_dropout_samples < 0:
            raise UserError(f"mc_dropout_samples {self.mc_dropout_samples}: give 0 or more")
        if self.members < 1:
            raise UserError(f"members {self.members}: give at least 1")
        if self.member is not None and not 0 <= self.member < self.members:
            raise UserError(
                f"member {self.member}: give a number from 0 to {self.members - 1} (of {self.members} members)"
            )


Options = TypeVar("Options", bound=LesionArguments)


def check_trainer_values(given: Mapping[str, Any]) -> None:
    """Refuse values of the Trainer's options that no run could mean.

    Raises:
        UserError: names the option, its value and what it may be.
    """
    if not (given["num_train_epochs"] > 0 or given["max_steps"] > 0):
        raise UserError(f"num_train_epochs {given['num_train_epochs']!r}: give more than 0, or max_steps instead")
    if not 0.0 < given["layer_decay"] <= 1.0:
        raise UserError(f"layer_decay {given['layer_decay']!r}: give a factor in (0, 1]; 1 switches it off")


def check_dataset(dataset: str, built_by: str = "") -> None:
    """Refuse a dataset that is not there, as far as that is seen without loading it.

    Args:
        dataset: a folder, or a Hub dataset id.
        built_by: the command that builds it.

    Raises:
        UserError: none was given, or the folder does not exist.
    """
    how = (
        f"build it with `{built_by}`"
        if built_by
        else "give the folder that a build_* command wrote, or a Hub dataset id"
    )
    if not dataset:
        raise UserError(f"no dataset was given: {how} (--dataset)")
    if not Path(dataset).is_dir() and (built_by or dataset.count("/") != 1 or dataset.startswith((".", "/", "~"))):
        raise UserError(f"the dataset folder {dataset!r} does not exist: {how}")


def parse(
    argv: list[str],
    recipe: str,
    options_class: type[Options] = LesionArguments,  # type: ignore[assignment]
) -> tuple[Options, LesionTrainingArguments, dict[str, Any]]:
    """Parse a command line on top of a recipe.

    Args:
        argv: the command line without the program's name.
        recipe: the default recipe's name (a file of ``trainers/recipes``), used when ``--recipe`` is not given.
        options_class: ``LesionArguments``, or a subclass with options of one trainer alone.

    Returns:
        The suite's options, the Trainer's options, and every key that was set by the recipe or the command line
        (``recipe_name`` included), as it finally stands.

    Raises:
        UserError: a recipe that is missing, not YAML, or has an unknown key.
        UserError: a value that TrainingArguments refuses.
    """
    from trainers.training.training_arguments import LesionTrainingArguments, OneLineHfParser

    # An abbreviated option would be used, but missing in the report's recipe.
    parser = OneLineHfParser([options_class, LesionTrainingArguments], allow_abbrev=False)  # type: ignore[list-item]
    parser.add_argument("--recipe", default=recipe, help="Recipe file, or the name of one of trainers/recipes.")
    usual = parser.parse_args([])
    chosen = chosen_recipe(argv, recipe)
    values = load_recipe(chosen, {action.dest for action in parser._actions})
    # Strings go through argparse's own types, so that YAML's `8e-4` (a string to YAML 1.1) becomes a number.
    parser.set_defaults(**{k: as_typed(v) for k, v in values.items()})
    for action in parser._actions:
        if action.dest in REFUSED:
            action.help = argparse.SUPPRESS
    given = parser.parse_args(argv)
    refuse(given, usual)
    precision = resolve_precision(given_precision(given), use_cpu=bool(given.use_cpu))
    if precision == "fp32" and LAUNCHED_PRECISION in os.environ:
        os.environ[LAUNCHED_PRECISION] = "no"  # TrainingArguments would take the launcher's word over ours
    parser.set_defaults(**_machine_defaults(given, precision))
    try:
        lesion, training = parser.parse_args_into_dataclasses(argv)[:2]
    except (ValueError, TypeError, ImportError, RuntimeError) as error:  # TrainingArguments raises all of these
        raise UserError(f"{error}") from error
    if (training.fp16, training.bf16) != (precision == "fp16", precision == "bf16"):
        raise UserError(f"fp16 {training.fp16}, bf16 {training.bf16}: precision is {precision}; give --precision alone")
    check(training)
    lesion.precision = precision
    explicit = _explicit(parser, argv)
    lesion.of_recipe = tuple(key for key in IDENTITY if key in values and key not in explicit)
    lesion.recipe_builder = str(values.get("dataset_command", ""))
    if lesion.dataset != values.get("dataset"):
        lesion.dataset_command = ""  # it builds the recipe's dataset, not the one that was given
    resolved = {
        name: getattr(lesion if hasattr(lesion, name) else training, name)
        for name in sorted({*values, *explicit} - {"recipe"})
    }
    resolved["precision"] = precision
    return lesion, training, {"recipe_name": Path(chosen).stem, **{k: plain(v) for k, v in resolved.items()}}


def load_recipe(name_or_path: str, known: set[str]) -> dict[str, Any]:
    """Read a recipe: a path, or the name of a file in ``trainers/recipes``.

    Raises:
        UserError: missing, not a mapping, or with a key outside ``known``.
    """
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        raise UserError(
            f"recipe {name_or_path!r} does not exist: give a YAML file, or one of {', '.join(recipe_names())}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is not YAML ({error}): fix the line it names") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path} holds a {type(values).__name__}, not `name: value` lines")
    for key in values:
        if key not in known or key in ("help", "recipe"):
            hint = did_you_mean(str(key), sorted(known)) or ": see --help for the known ones"
            raise UserError(f"recipe {path} has an unknown key {key!r}{hint}")
    return values


def recipe_names() -> list[str]:
    """Names of the recipes that come with the suite."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def given_precision(given: argparse.Namespace) -> str:
    """The value of ``--precision``, or transformers' own ``--fp16`` and ``--bf16``.

    Raises:
        UserError: they contradict each other.
    """
    flags = [name for name in ("fp16", "bf16") if getattr(given, name)]
    if not flags:
        return str(given.precision)
    if len(flags) > 1 or given.precision not in ("auto", flags[0]):
        raise UserError(f"{' and '.join(flags)} true, precision {given.precision!r}: give one of them")
    return flags[0]


def resolve_precision(precision: str, *, use_cpu: bool = False) -> str:
    """The precision of ``auto``: that of ``accelerate launch``, else fp16 on CUDA, bf16 on CPUs that have it, fp32.

    Raises:
        UserError: an unknown precision, or fp16 on a CPU.
    """
    import torch

    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
    launched = os.environ.get(LAUNCHED_PRECISION)
    if precision == "auto" and launched in PRECISIONS:
        precision = launched
    cuda = torch.cuda.is_available() and not use_cpu
    if precision == "fp16" and not cuda:
        raise UserError("precision 'fp16' needs a CUDA device: use bf16 or fp32 here")
    if precision != "auto":
        return precision
    if cuda:
        return "fp16"
    return "bf16" if not torch.backends.mps.is_available() and torch.cpu._is_avx512_bf16_supported() else "fp32"


def _machine_defaults(given: argparse.Namespace, precision: str) -> dict[str, Any]:
    """What follows from the machine: precision flags, TF32, pinned memory, the CPU where there is nothing else."""
    import torch

    cuda = torch.cuda.is_available() and not given.use_cpu
    defaults: dict[str, Any] = {
        "fp16": precision == "fp16",
        "bf16": precision == "bf16",
        "tf32": True if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
        "dataloader_pin_memory": cuda,
    }
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        defaults["use_cpu"] = True
    if given.dataloader_num_workers == 0:
        defaults["dataloader_persistent_workers"] = False
    return defaults


def chosen_recipe(argv: list[str], default: str) -> str:
    """What ``--recipe`` names, or the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default=default)
    return parser.parse_known_args(argv)[0].recipe


def _explicit(parser: argparse.ArgumentParser, argv: list[str]) -> set[str]:
    """Destinations named on the command line."""
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    return {options[word.split("=")[0]] for word in argv if word.split("=")[0] in options}


def as_typed(value: Any) -> Any:
    """A recipe's value as it would be typed on the command line, where its type matters to argparse."""
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value) if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """A value as JSON and YAML can hold it."""
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
