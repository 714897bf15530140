"""What every lesion classifier's configuration holds: the labels, the backbone's name, and the scalars of trust.

``config.json`` is the contract with people who have only transformers. So the labels stand there three times over:
``id2label`` carries the short names of the dataset (what a pipeline prints), ``label_names`` the long ones (what a
reader understands) and ``label_groups`` whether a class is benign, premalignant or malignant (what ``p_malignant``
sums). Numbers that were fitted after training, such as the temperature, stand under ``trust`` with the split and the
number of images they were fitted on.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import field
from typing import Any, NoReturn

# Before transformers, whose version it checks.
from .checks_lesion import (
    DTYPES,
    LARGEST_BUFFER,
    LARGEST_IMAGE,
    MOST_CLASSES,
    about_problem,
    brief,
    is_dtype,
    is_number,
    is_whole,
)

# isort: split
from transformers import PreTrainedConfig

LABEL_GROUPS = ("benign", "premalignant", "malignant")
# The groups that ``p_malignant`` sums.
MALIGNANT_GROUPS = ("malignant", "premalignant")
# What sets the labels in ``from_pretrained``.
LABEL_KEYS = ("num_labels", "id2label", "label2id")
# What is stored about the classes, and holds for no others.
ABOUT_CLASSES = ("label_names", "label_groups", "trust", "self_check")
SMALLEST_IMAGE = 32
# A name in timm's registry, perhaps with the tag of its weights. `hf-hub:`, `local-dir:` and paths are none: timm would
# open a folder, or download from another repository, as the author of the config wants.
TIMM_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?")
ACTIVATIONS = ("elu", "gelu", "hard_swish", "leaky_relu", "mish", "relu", "relu6", "silu", "swish")
POOLINGS = ("avg", "avgmax", "fast", "max")
# What a config may set of a backbone. timm.create_model takes much more: files to open, addresses to download from.
SHARES = ("drop_rate", "drop_path_rate", "drop_block_rate", "bn_momentum")
SWITCHES = ("zero_init_last", "fix_stem")
CHOICES: dict[str, tuple[Any, ...]] = {
    "output_stride": (8, 16, 32),
    "act_layer": ACTIVATIONS,
    "global_pool": POOLINGS,
}
BACKBONE_KWARGS = ("bn_eps", *SHARES, *SWITCHES, *CHOICES)
# Keys of a config that make transformers read another file, or run other code, than the repository's own.
LOADER_KEYS = ("transformers_weights", "quantization_config")
CONFORMAL_METHODS = ("lac", "aps", "raps")
DECISION_RULES = ("most_probable", "balanced", "cost", "sensitivity")


class LesionConfigError(ValueError):
    """A configuration value that no lesion classifier can work with. The message names the value and the fix."""


def check_backbone(name: Any, kwargs: Any, where: str = "") -> None:
    """Check that a backbone is an architecture of timm's registry, with nothing but settings of its layers.

    Args:
        name: as ``timm.create_model`` takes it.
        kwargs: further arguments of ``timm.create_model``.
        where: what stands before the names in a message, e.g. ``members[0]: ``.

    Raises:
        LesionConfigError: another name, such as a repository or a path; an argument that is not among
            ``BACKBONE_KWARGS``, or a value that is out of its range.
    """
    if not isinstance(name, str) or not TIMM_NAME.fullmatch(name):
        raise LesionConfigError(
            f"{where}backbone is {brief(name)}; give the name of an architecture in timm, e.g. mobilenetv2_100 (no "
            "repository, no path: a config must not choose what is downloaded or opened)."
        )
    if not isinstance(kwargs, dict):
        raise LesionConfigError(f"{where}backbone_kwargs is {brief(kwargs)}; give a dictionary of arguments.")
    for key, value in kwargs.items():
        if key not in BACKBONE_KWARGS:
            raise LesionConfigError(
                f"{where}backbone_kwargs has {brief(key)}; leave it out, or choose from {', '.join(BACKBONE_KWARGS)}."
            )
        if key == "bn_eps":
            fine, wanted = is_number(value) and 0 < value <= 1, "a number in (0, 1]"
        elif key in SHARES:
            fine, wanted = is_number(value) and 0 <= value < 1, "a number in [0, 1)"
        elif key in SWITCHES:
            fine, wanted = isinstance(value, bool), "true or false"
        else:
            # True == 1, so that types are compared, too.
            fine = any(type(value) is type(choice) and value == choice for choice in CHOICES[key])
            wanted = f"one of {', '.join(map(str, CHOICES[key]))}"
        if not fine:
            raise LesionConfigError(f"{where}backbone_kwargs has {key} {brief(value)}; give {wanted}.")


class LesionConfig(PreTrainedConfig):
    """Configuration that all lesion classifiers share.

    Args:
        id2label: class index -> short name, indices 0..C-1 without gaps; ``label2id`` is always derived from it.
        label_names: short name -> long name, for exactly the labels of ``id2label``; empty = not known.
        label_groups: short name -> ``benign`` | ``premalignant`` | ``malignant``, for exactly the labels of
            ``id2label``; empty = not known, and then ``p_malignant`` is None.
        image_size: side of the square input in pixels, from 32 to 4096.
        backbone: the architecture's name in timm.
        backbone_kwargs: settings of its layers by their names in timm, e.g. ``{"bn_eps": 1e-3}``: ``BACKBONE_KWARGS``.
        freeze_backbone: the backbone's weights and statistics stay as they are while the head is trained.
        dropout: probability in [0, 1) of dropping a feature before the head while training.
        initialised_from: where the backbone's weights came from before training, for the model card.
        trust: what was fitted after training, by name, each with the split, the number of images, the method and the
            date of its fit: ``temperature`` (``value`` T > 0; ``bias`` and ``scale``, lists a class, where they were
            fitted), ``prior`` (``value``: share of each class), ``ood`` (``detector``, ``threshold``, ``settings``, and
            ``buffers``: the shapes of its matrices), ``conformal`` (``method``, ``alpha``, ``settings``, ``qhat``: a
            quantile a class, null = infinite), ``bands`` (``low`` and ``moderate``: ``threshold``, null where nothing
            can be promised, ``risk``, ``confidence`` and, where it is promised, ``missed_risk``), ``decision``
            (``rule``, one of ``DECISION_RULES``; ``cost``, a row per true class, a column per named class;
            ``sensitivity``: ``target``, ``confidence`` and the ``threshold`` on ``p_malignant``, null where nothing can
            be promised), ``groups`` (``groups_lesion`` describes it; only where sets and bands were fitted by group),
            ``policy`` (``max_set_size``), ``fitted_for`` (``inference``, ``preprocessing``).
        self_check: ``outputs``: what the model gave for a fixed image when it was saved (``self_check_lesion``).
        suite_version: of the suite that saved it.
        model_version: of the model, as its publisher counts (semantic versions).

    Raises:
        LesionConfigError: a value is out of its range, or labels, names and groups do not agree.
    """

    model_type = "lesion"
    # Trainer's metrics see the logits alone; the other outputs are stored with the predictions.
    keys_to_ignore_at_inference = [
        "raw_logits",
        "features",
        "predictive_entropy",
        "aleatoric",
        "epistemic",
        "early",
        "ood_score",
        "hidden_states",
    ]

    label_names: dict[str, str] = field(default_factory=dict)
    label_groups: dict[str, str] = field(default_factory=dict)
    image_size: int = 224
    backbone: str = "mobilenetv2_100"
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    freeze_backbone: bool = False
    dropout: float = 0.2
    initialised_from: str | None = None
    trust: dict[str, Any] = field(default_factory=dict)
    self_check: dict[str, Any] = field(default_factory=dict)
    suite_version: str | None = None
    model_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Before transformers makes a list of that many names.
        classes = kwargs.get("num_labels")
        if classes is not None and not is_whole(classes, 2, MOST_CLASSES):
            raise LesionConfigError(f"num_labels is {brief(classes)}; give a whole number from 2 to {MOST_CLASSES}.")
        # transformers takes any text for a name of torch, and ends in an error that does not name it.
        for name, dtype in (("dtype", self.dtype), ("torch_dtype", kwargs.get("torch_dtype"))):
            if not is_dtype(dtype):
                raise LesionConfigError(f"{name} is {brief(dtype)}; give one of {', '.join(DTYPES)}, or leave it out.")
        for name in LOADER_KEYS:
            if kwargs.get(name) is not None:
                raise LesionConfigError(f"{name} is {brief(kwargs[name])}; leave it out: a lesion classifier has none.")
        if not isinstance(self.id2label, (dict, type(None))):
            raise LesionConfigError(f"id2label is {brief(self.id2label)}; give a dictionary from index to short name.")
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers does, also for other labels than the stored ones, as fine-tuning on new classes sets them.

        What is stored about the classes (``label_names``, ``label_groups``, ``trust``) does not hold for other ones. It
        is dropped with one warning, unless it is also given. The order of the classes counts: the head's rows have it.

        Args:
            config_dict: the content of a ``config.json``.
            **kwargs: values that replace stored ones; ``num_labels``, ``id2label`` and ``label2id`` as for every
                classifier of transformers, indices as numbers or as text.

        Raises:
            LesionConfigError: ``id2label`` and ``num_labels`` disagree, or a value is out of its range.
        """
        stored = _by_index(config_dict.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"})
        requested = {name: kwargs.pop(name, None) for name in LABEL_KEYS}
        # What is stored may be anything; the constructor names it.
        labels = _requested_labels(stored, **requested) if isinstance(stored, dict) else None
        if labels is not None:
            config_dict = {name: value for name, value in config_dict.items() if name not in LABEL_KEYS}
            config_dict["id2label"] = labels
            if labels != stored:
                dropped = [name for name in ABOUT_CLASSES if config_dict.pop(name, None) and name not in kwargs]
                _warn_of_dropped(stored, labels, dropped)
        return super().from_dict(config_dict, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value; other labels (``id2label``, ``num_labels``) drop, with a warning, what is stored of the old."""
        before = self.__dict__.get("id2label")
        super().__setattr__(name, value)
        after = self.__dict__.get("id2label")
        if name not in ("id2label", "num_labels") or not isinstance(before, dict) or not isinstance(after, dict):
            return
        if _by_index(before) == _by_index(after):
            return
        # What was set for the new labels before them stays.
        names = set(map(str, after.values()))
        dropped = [key for key in ABOUT_CLASSES if (stored := self.__dict__.get(key)) and set(stored) != names]
        for key in dropped:
            super().__setattr__(key, {})
        _warn_of_dropped(before, after, dropped)

    def check(self) -> None:
        """Check every value; called on construction, by the model's constructor and before saving.

        Raises:
            LesionConfigError: names the value received and the fix.
        """
        attention = self._attn_implementation
        if not isinstance(attention, (str, type(None))) or "/" in (attention or ""):
            raise LesionConfigError(
                f"attn_implementation is {brief(attention)}; leave it out: a config must not name code of another "
                "repository."
            )
        if problem := about_problem(self):
            raise LesionConfigError(problem)
        self._check_labels()
        self._check_backbone()
        self._check_trust()

    @property
    def labels(self) -> list[str]:
        """The C short class names in the order of the logits."""
        names: dict[Any, str] = dict(self.id2label or {})
        return [names[index] for index in range(len(names))]

    @property
    def backbones(self) -> list[str]:
        """The architectures that read the pixels, one per member; empty where none does."""
        return [self.backbone]

    @property
    def softmax_temperature(self) -> float:
        """What raw logits are divided by in eval mode: > 0, and 1.0 when no temperature was fitted.

        The plain name ``temperature`` belongs to text generation: transformers refuses to save a config that has it.
        """
        fitted = self.trust.get("temperature")
        return float(fitted["value"]) if fitted else 1.0

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Check the values once more, since they may have changed since construction, then write ``config.json``."""
        self.check()
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _check_labels(self) -> None:
        self.id2label = _by_index(self.id2label or {})
        indices = list(self.id2label)
        if not 2 <= len(indices) <= MOST_CLASSES or indices != list(range(len(indices))):
            raise LesionConfigError(
                f"id2label has {len(indices)} classes, with the indices {brief(indices)}; give at least two classes "
                f"(at most {MOST_CLASSES}), numbered 0, 1, 2, ... without a gap."
            )
        labels = self.labels
        if any(not isinstance(label, str) or not label for label in labels) or len(set(labels)) < len(labels):
            raise LesionConfigError(f"id2label has the names {brief(labels)}; give each class its own, non-empty name.")
        self.label2id = {label: index for index, label in enumerate(labels)}
        for name, mapping in (("label_names", self.label_names), ("label_groups", self.label_groups)):
            if not isinstance(mapping, dict):
                raise LesionConfigError(f"{name} is {brief(mapping)}; give a dictionary from short class name to text.")
            if not all(isinstance(text, str) for text in mapping.values()):
                raise LesionConfigError(f"{name} is {brief(mapping)}; give a text for each label.")
            if mapping and set(mapping) != set(labels):
                missing, unknown = sorted(set(labels) - set(mapping)), sorted(set(mapping) - set(labels))
                raise LesionConfigError(
                    f"{name} does not fit the labels {labels}: missing {missing}, unknown {unknown}. Give an entry for "
                    "each label and no other, or leave it empty."
                )
        for label, group in self.label_groups.items():
            if group not in LABEL_GROUPS:
                raise LesionConfigError(
                    f"label_groups[{label!r}] is {group!r}; choose one of {', '.join(LABEL_GROUPS)}."
                )

    def _check_backbone(self) -> None:
        size = self.image_size
        if not is_whole(size, SMALLEST_IMAGE, LARGEST_IMAGE):
            raise LesionConfigError(
                f"image_size is {brief(size)}; give a whole number of pixels from {SMALLEST_IMAGE} to {LARGEST_IMAGE}."
            )
        drop = self.dropout
        if not is_number(drop) or not 0.0 <= drop < 1.0:
            raise LesionConfigError(f"dropout is {brief(drop)}; give a probability in [0, 1).")
        if not isinstance(self.freeze_backbone, bool):
            raise LesionConfigError(f"freeze_backbone is {brief(self.freeze_backbone)}; give true or false.")
        if not isinstance(self.initialised_from, (str, type(None))):
            raise LesionConfigError(f"initialised_from is {brief(self.initialised_from)}; give a text, or null.")
        check_backbone(self.backbone, self.backbone_kwargs)

    def _check_trust(self) -> None:
        if not isinstance(self.trust, dict):
            raise LesionConfigError(f"trust is {brief(self.trust)}; give a dictionary, empty when nothing was fitted.")
        for name, section in self.trust.items():
            if not isinstance(section, dict):
                raise LesionConfigError(f'trust["{name}"] is {brief(section)}; give a dictionary, or leave it out.')
        self._check_numbers("temperature", "value", 1, above=0.0)
        for name in ("scale", "bias"):
            if self.trust.get("temperature", {}).get(name) is not None:
                self._check_numbers("temperature", name, len(self.labels), above=0.0 if name == "scale" else None)
        self._check_numbers("prior", "value", len(self.labels), above=0.0)
        self._check_numbers("ood", "threshold", 1)
        self._check_gate()
        self._check_promises(self.trust)
        self._check_groups()
        self._check_decision()

    def _check_gate(self) -> None:
        """The detector's numbers, and the shapes of its matrices."""
        gate = self.trust.get("ood", {})
        settings, buffers = gate.get("settings", {}), gate.get("buffers", {})
        if gate and not isinstance(gate.get("detector"), str):
            self._refuse("ood", "detector", gate.get("detector"), "the name of a detector")
        if not isinstance(settings, dict) or not all(is_number(value) for value in settings.values()):
            self._refuse("ood", "settings", settings, "a dictionary of finite numbers")
        if not isinstance(buffers, dict):
            self._refuse("ood", "buffers", buffers, "a dictionary from name to shape")
        for name, shape in buffers.items():
            fine = isinstance(shape, (list, tuple)) and all(is_whole(side, 1, LARGEST_BUFFER) for side in shape)
            if not name.isidentifier() or not fine or not 1 <= math.prod(shape) <= LARGEST_BUFFER:
                self._refuse("ood", "buffers", {name: shape}, f"shapes of 1 to {LARGEST_BUFFER} numbers in all")

    def _check_promises(self, trust: Mapping[str, Any]) -> None:
        """Sets, bands and the policy."""
        sets = trust.get("conformal")
        if sets:
            settings = sets.get("settings")
            if sets.get("method") not in CONFORMAL_METHODS:
                self._refuse("conformal", "method", sets.get("method"), f"one of {', '.join(CONFORMAL_METHODS)}")
            if not isinstance(settings, (dict, type(None))) or not all(map(is_number, (settings or {}).values())):
                self._refuse("conformal", "settings", settings, "a dictionary of finite numbers")
        self._check_numbers("conformal", "qhat", len(self.labels), or_none=True, trust=trust)
        bands = trust.get("bands")
        for band, fitted in (bands or {}).items():
            if not isinstance(fitted, dict):
                self._refuse("bands", band, fitted, "a dictionary")
            threshold = fitted.get("threshold")
            if threshold is not None and not is_number(threshold):
                self._refuse(
                    "bands", f"{band}.threshold", threshold, "a finite number, or null where it promises nothing"
                )
            # The second promise is of later models, and of those with malignant classes.
            second = ("missed_risk",) if "missed_risk" in fitted else ()
            for name in ("risk", "confidence", *second):
                if threshold is not None and not (is_number(fitted.get(name)) and 0 < fitted[name] < 1):
                    self._refuse("bands", f"{band}.{name}", fitted.get(name), "a number between 0 and 1")
        if bands and not {"low", "moderate"} <= set(bands):
            self._refuse("bands", "low, moderate", sorted(bands), "both bands")
        if bands:
            low, moderate = (bands[name].get("threshold") for name in ("low", "moderate"))
            if low is not None and moderate is not None and moderate < low:
                self._refuse("bands", "moderate.threshold", moderate, f"at least the low band's, {low}")
        most = trust.get("policy", {}).get("max_set_size", 1)
        if not is_whole(most, 1, MOST_CLASSES):
            self._refuse("policy", "max_set_size", most, f"a whole number from 1 to {MOST_CLASSES}")

    def _check_groups(self) -> None:
        """The names of the groups, and the sets and bands of each."""
        fitted = self.trust.get("groups")
        if not fitted:
            return
        for name in ("column", "read_from"):
            if not isinstance(fitted.get(name), str):
                self._refuse("groups", name, fitted.get(name), "a name")
        values, edges = fitted.get("values"), fitted.get("edges") or {}
        if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
            self._refuse("groups", "values", values, "a dictionary from group to what was fitted for it")
        for name, group in values.items():
            for part in ("conformal", "bands"):
                if not isinstance(group.get(part), (dict, type(None))):
                    self._refuse("groups", f"values.{name}.{part}", group[part], "a dictionary")
            self._check_promises({part: group[part] for part in ("conformal", "bands") if group.get(part)})
        for band in edges.values() if isinstance(edges, dict) else [edges]:
            pair = isinstance(band, list) and len(band) == 2 and is_number(band[0])
            if not pair or not (band[1] is None or is_number(band[1])):
                self._refuse("groups", "edges", edges, "name -> two numbers, the second perhaps null")

    def _check_decision(self) -> None:
        """The rule that names a class, the costs, and the threshold on ``p_malignant``."""
        fitted = self.trust.get("decision")
        if not fitted:
            return
        if fitted.get("rule") not in DECISION_RULES:
            self._refuse("decision", "rule", fitted.get("rule"), f"one of {', '.join(DECISION_RULES)}")
        cost, classes = fitted.get("cost"), len(self.labels)
        rows = cost if isinstance(cost, list) else []
        square = len(rows) == classes and all(isinstance(row, list) and len(row) == classes for row in rows)
        if cost is not None and not (square and all(is_number(value) and value >= 0 for row in rows for value in row)):
            wanted = f"{classes} rows of {classes} numbers, each at least 0"
            self._refuse("decision", "cost", cost, wanted)
        flag = fitted.get("sensitivity")
        if not isinstance(flag, (dict, type(None))):
            self._refuse("decision", "sensitivity", flag, "a dictionary, or null")
        for name in ("target", "confidence", "threshold"):
            value: Any = (flag or {}).get(name)
            may_lack = name == "threshold" or not flag
            if not (value is None and may_lack) and not (is_number(value) and 0 <= value <= 1):
                self._refuse("decision", f"sensitivity.{name}", value, "a number between 0 and 1")
        needed = {"cost": cost, "sensitivity": (flag or {}).get("threshold")}
        if needed.get(fitted["rule"], True) is None:
            self._refuse("decision", "rule", fitted["rule"], "a rule for which the section holds what it needs")

    @staticmethod
    def _refuse(section: str, name: str, value: Any, wanted: str) -> NoReturn:
        raise LesionConfigError(
            f'trust["{section}"]["{name}"] is {brief(value)}; give {wanted}, or leave the section out.'
        )

    def _check_numbers(
        self,
        section: str,
        name: str,
        amount: int,
        above: float | None = None,
        or_none: bool = False,
        trust: Mapping[str, Any] | None = None,
    ) -> None:
        """Check one number, or a list of them, of a section of trust (None = the config's) that is there."""
        fitted = (self.trust if trust is None else trust).get(section)
        if fitted is None:
            return
        given = fitted.get(name)
        values = [given] if amount == 1 else given
        right = isinstance(values, list) and len(values) == amount
        if not right or not all(
            (or_none and value is None) or (is_number(value) and (above is None or value > above)) for value in values
        ):
            wanted = "a finite number" if amount == 1 else f"{amount} finite numbers, one a class"
            limit = "" if above is None else f" above {above:g}"
            self._refuse(section, name, given, f"{wanted}{limit}")


def _warn_of_dropped(before: Mapping[Any, Any], after: Mapping[Any, Any], dropped: list[str]) -> None:
    if dropped:
        warnings.warn(
            f"the labels {', '.join(map(str, before.values()))} were replaced by "
            f"{', '.join(map(str, after.values()))}: {', '.join(dropped)} of the old labels were dropped. "
            "Train the head, then fit trust with `python -m trainers.fit_trust`.",
            stacklevel=3,
        )


def _by_index(id2label: Any) -> Any:
    """Class index -> name with whole numbers for indices that are text, as in JSON; in their order.

    Anything else is returned as it is, for the check that names it.
    """
    try:
        rows = sorted((int(key) if isinstance(key, str) else key, key) for key in id2label)
        return {index: id2label[key] for index, key in rows}
    except (TypeError, ValueError, LookupError):
        return id2label


def _requested_labels(stored: Any, num_labels: Any, id2label: Any, label2id: Any) -> dict[int, str] | None:
    """The labels that a caller of ``from_pretrained`` sets, by index; None where none are set.

    Raises:
        LesionConfigError: they are none, or ``id2label`` and ``num_labels`` disagree.
    """
    if num_labels is not None and not is_whole(num_labels, 2, MOST_CLASSES):
        raise LesionConfigError(f"num_labels is {brief(num_labels)}; give a whole number from 2 to {MOST_CLASSES}.")
    for name, given in (("id2label", id2label), ("label2id", label2id)):
        if not isinstance(given, (Mapping, type(None))):
            raise LesionConfigError(f"{name} is {brief(given)}; give a dictionary of the classes.")
    if id2label is None and label2id is not None:
        id2label = {index: label for label, index in label2id.items()}
    if id2label is None:
        other = num_labels is not None and num_labels != len(stored)
        return {index: f"LABEL_{index}" for index in range(num_labels)} if other else None
    labels = _by_index(id2label)
    if num_labels is not None and num_labels != len(labels):
        raise LesionConfigError(f"num_labels is {num_labels}, but id2label has {len(labels)} labels; give the same.")
    return labels
