"""What every lesion classifier's configuration holds: the labels, the backbone's name, and the scalars of trust.

``config.json`` is the contract with people who have only transformers. So the labels stand there three times over:
``id2label`` carries the short names of the dataset (what a pipeline prints), ``label_names`` the long ones (what a
reader understands) and ``label_groups`` whether a class is benign, premalignant or malignant (what ``p_malignant``
sums). Numbers that were fitted after training, such as the temperature, stand under ``trust`` with the split and the
number of images they were fitted on.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from transformers import PreTrainedConfig

LABEL_GROUPS = ("benign", "premalignant", "malignant")
SMALLEST_IMAGE = 32


class LesionConfigError(ValueError):
    """A configuration value that no lesion classifier can work with. The message names the value and the mend."""


class LesionConfig(PreTrainedConfig):
    """Configuration that all lesion classifiers share.

    Args:
        id2label: class index -> short name, indices 0..C-1 without gaps; ``label2id`` is always derived from it.
        label_names: short name -> long name, for exactly the labels of ``id2label``; empty = not known.
        label_groups: short name -> ``benign`` | ``premalignant`` | ``malignant``, for exactly the labels of
            ``id2label``; empty = not known, and then ``p_malignant`` is None.
        image_size: side of the square input in pixels, at least 32.
        backbone: the architecture's name in timm.
        backbone_kwargs: further arguments of ``timm.create_model``, e.g. ``{"bn_eps": 1e-3}``.
        freeze_backbone: the backbone's weights and statistics stay as they are while the head is trained.
        dropout: probability in [0, 1) of dropping a feature before the head while training.
        initialised_from: where the backbone's weights came from before training, for the model card.
        trust: what was fitted after training, by name, each with the split, the number of images, the method and the
            date of its fit: ``temperature`` (``value`` T > 0; ``bias`` and ``scale``, lists a class, where they were
            fitted), ``prior`` (``value``: share of each class), ``ood`` (``detector``, ``threshold``, ``settings``, and
            ``buffers``: the shapes of its matrices), ``conformal`` (``method``, ``alpha``, ``settings``, ``qhat``: a
            quantile a class, null = infinite), ``bands`` (``low`` and ``moderate``: ``threshold``, null where nothing
            can be promised, ``risk``, ``confidence``), ``policy`` (``max_set_size``), ``fitted_for`` (``inference``,
            ``preprocessing``).

    Raises:
        LesionConfigError: a value is out of its range, or labels, names and groups do not agree.
    """

    model_type = "lesion"
    # Trainer's metrics see the logits alone; the runner asks for the other outputs when it writes predictions.
    keys_to_ignore_at_inference = [
        "raw_logits",
        "features",
        "predictive_entropy",
        "aleatoric",
        "epistemic",
        "early",
        "ood_score",
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

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Check every value; called on construction, by the model's constructor and before saving.

        Raises:
            LesionConfigError: names the value received and the mend.
        """
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
        """The architectures that look at the pixels, one a member; empty where none does."""
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
        indices = sorted(self.id2label or {})
        if len(indices) < 2 or indices != list(range(len(indices))):
            raise LesionConfigError(
                f"id2label has the indices {indices}; give at least two classes, numbered 0, 1, 2, ... without a gap."
            )
        labels = self.labels
        if any(not isinstance(label, str) or not label for label in labels) or len(set(labels)) < len(labels):
            raise LesionConfigError(f"id2label has the names {labels}; give each class its own, non-empty name.")
        self.label2id = {label: index for index, label in enumerate(labels)}
        for name, mapping in (("label_names", self.label_names), ("label_groups", self.label_groups)):
            if not isinstance(mapping, dict):
                raise LesionConfigError(f"{name} is {mapping!r}; give a dictionary from short class name to text.")
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
        if isinstance(size, bool) or not isinstance(size, int) or size < SMALLEST_IMAGE:
            raise LesionConfigError(
                f"image_size is {size!r}; give a whole number of pixels, at least {SMALLEST_IMAGE}."
            )
        drop = self.dropout
        if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0.0 <= drop < 1.0:
            raise LesionConfigError(f"dropout is {drop!r}; give a probability in [0, 1).")
        if not isinstance(self.backbone, str) or not self.backbone:
            raise LesionConfigError(
                f"backbone is {self.backbone!r}; give an architecture's name, e.g. mobilenetv2_100."
            )
        if not isinstance(self.backbone_kwargs, dict):
            raise LesionConfigError(f"backbone_kwargs is {self.backbone_kwargs!r}; give a dictionary of arguments.")

    def _check_trust(self) -> None:
        if not isinstance(self.trust, dict):
            raise LesionConfigError(f"trust is {self.trust!r}; give a dictionary, empty when nothing was fitted.")
        for name, section in self.trust.items():
            if not isinstance(section, dict):
                raise LesionConfigError(f'trust["{name}"] is {section!r}; give a dictionary, or leave it out.')
        self._check_numbers("temperature", "value", 1, above=0.0)
        for name in ("scale", "bias"):
            if self.trust.get("temperature", {}).get(name) is not None:
                self._check_numbers("temperature", name, len(self.labels), above=0.0 if name == "scale" else None)
        self._check_numbers("prior", "value", len(self.labels), above=0.0)
        self._check_numbers("ood", "threshold", 1)
        self._check_numbers("conformal", "qhat", len(self.labels), or_none=True)
        for band, fitted in self.trust.get("bands", {}).items():
            if isinstance(fitted, dict) and fitted.get("threshold") is not None and not _is_number(fitted["threshold"]):
                raise LesionConfigError(
                    f'trust["bands"]["{band}"] has the threshold {fitted["threshold"]!r}; give a finite number, or '
                    "null where nothing can be promised."
                )

    def _check_numbers(
        self, section: str, name: str, amount: int, above: float | None = None, or_none: bool = False
    ) -> None:
        """Check one number, or a list of them, of a section of trust that is there."""
        fitted = self.trust.get(section)
        if fitted is None:
            return
        given = fitted.get(name)
        values = [given] if amount == 1 else given
        right = isinstance(values, list) and len(values) == amount
        if not right or not all(
            (or_none and value is None) or (_is_number(value) and (above is None or value > above)) for value in values
        ):
            wanted = "a finite number" if amount == 1 else f"{amount} finite numbers, one a class"
            limit = "" if above is None else f" above {above:g}"
            raise LesionConfigError(
                f'trust["{section}"]["{name}"] is {given!r}; give {wanted}{limit}, or leave the section out.'
            )


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
