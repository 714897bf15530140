"""The deep ensemble: K classifiers of one task answer as one, and their disagreement is the epistemic uncertainty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .backbone_lesion import build_timm_backbone, early_stages, load_backbone_file, load_timm_weights, stages
from .configuration_ensemble import MEMBER_FIELDS, EnsembleLesionConfig
from .explain_lesion import pooling_layers
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures

if TYPE_CHECKING:
    from typing import Self


class MemberMismatchError(ValueError):
    """Members that cannot answer as one."""


class EnsembleMember(nn.Module):
    """A CNN of timm, dropout, and a linear layer with one logit a class."""

    def __init__(self, backbone: str, backbone_kwargs: dict[str, Any], dropout: float, n_classes: int) -> None:
        super().__init__()
        self.name, self.kwargs = backbone, backbone_kwargs
        self.backbone, self.feature_dim = build_timm_backbone(backbone, **backbone_kwargs)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.feature_dim, n_classes)


class EnsembleForLesionClassification(LesionForImageClassification):
    """K members on the same pixels: (N, 3, S, S) -> raw logits (N, K, C), answered as the mean of the probabilities.

    ``features`` (N, D) are the members' side by side, so D is the sum of their widths. A model of one member is what a
    member is trained as; :meth:`from_members` puts trained ones together. One temperature is shared by all members, so
    that total = aleatoric + epistemic also holds after calibration.
    """

    config_class = EnsembleLesionConfig
    config: EnsembleLesionConfig

    def build(self) -> None:
        """Make the members, at random."""
        classes = len(self.config.labels)
        self.members = nn.ModuleList(EnsembleMember(**member, n_classes=classes) for member in self.config.members)
        self.feature_dim = sum(self.widths)

    @property
    def widths(self) -> list[int]:
        """Width of each member's features."""
        return [int(member.feature_dim) for member in self.members]  # type: ignore[arg-type]

    def pretrained_parts(self) -> list[nn.Module]:
        """The members' backbones."""
        return [member.backbone for member in self.members]  # type: ignore[misc]

    def frozen_parts(self) -> list[nn.Module]:
        """The members' backbones when ``freeze_backbone``."""
        return self.pretrained_parts() if self.config.freeze_backbone else []

    def load_backbone(self, weights: str | os.PathLike[str]) -> str:
        """Fill every member's backbone: ``"timm"``, or a safetensors file that fits all of them.

        Raises:
            BackboneWeightsError: they cannot be fetched, found, read or fitted.
        """
        loaded = []
        for member in self.members:
            if weights == "timm":
                loaded.append(load_timm_weights(member.backbone, member.name, **member.kwargs))  # type: ignore[arg-type]
            else:
                loaded.append(load_backbone_file(member.backbone, weights))  # type: ignore[arg-type]
        return "; ".join(dict.fromkeys(loaded))

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """ImageNet's, whatever the backbones: members of different architectures must agree on the pixels."""
        return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> the members' pooled features side by side (N, D)."""
        members: list[Any] = list(self.members)
        return torch.cat([member.backbone(pixel_values) for member in members], dim=1)

    def early_layers(self) -> list[nn.Module]:
        """One stage of each member."""
        return early_stages(self.pretrained_parts())

    def hidden_layers(self) -> list[nn.Module]:
        """The stages of each member, one member after the other."""
        return stages(self.pretrained_parts())

    def last_layer(self) -> tuple[nn.Module, str] | None:
        """None where there are several members: their last maps may have different shapes."""
        parts = self.pretrained_parts()
        return (pooling_layers(parts)[0], "input") if len(parts) == 1 else None

    def explained_layers(self) -> list[nn.Module]:
        """The pooling of each member."""
        return pooling_layers(self.pretrained_parts())

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Features side by side (N, D) -> raw logits (N, K, C)."""
        members: list[Any] = list(self.members)
        parts = features.split(self.widths, dim=1)
        logits = [member.head(member.dropout(part)) for member, part in zip(members, parts, strict=True)]
        return torch.stack(logits, dim=1)

    @classmethod
    def from_members(cls, models: Sequence[Any]) -> Self:
        """Put trained models together into one ensemble, in the order given.

        Args:
            models: at least one; each with the same labels and input size. Ensembles (usually of one member each), or
                classifiers of one CNN under a linear head. The classes stand in the first one's order: the heads of
                the others are put into it.

        Raises:
            MemberMismatchError: there is none; labels, names, groups or image size differ; another kind of model.
        """
        if not models:
            raise MemberMismatchError("0 members; give at least one.")
        first = models[0].config
        for number, model in enumerate(models[1:], start=1):
            for name in ("labels", "label_names", "label_groups", "image_size"):
                ours, theirs = getattr(first, name), getattr(model.config, name)
                if ours != theirs and not (name == "labels" and sorted(ours) == sorted(theirs)):
                    raise MemberMismatchError(
                        f"member {number} has {name} {theirs}, member 0 has {ours}; members must agree on labels and "
                        "preprocessing."
                    )
        parts = [members_of(model, number) for number, model in enumerate(models)]
        members = [dict(member) for described, _ in parts for member in described]
        config = cls.config_class(
            id2label=dict(enumerate(first.labels)),
            label_names=first.label_names,
            label_groups=first.label_groups,
            image_size=first.image_size,
            members=members,
            **{name: members[0][name] for name in members[0]},
        )
        config.initialised_from = "; ".join(dict.fromkeys(str(model.config.initialised_from) for model in models))
        ensemble = cls(config)
        trained = [
            (state, model.config.labels) for model, (_, states) in zip(models, parts, strict=True) for state in states
        ]
        for member, (state, labels) in zip(ensemble.members, trained, strict=True):
            order = [labels.index(label) for label in first.labels]
            state |= {name: state[name][order] for name in ("head.weight", "head.bias")}
            member.load_state_dict(state)
        return ensemble.eval()


def members_of(model: Any, number: int) -> tuple[list[dict[str, Any]], list[dict[str, torch.Tensor]]]:
    """What ``config.members`` says of each member of a model, and each member's weights.

    Args:
        model: an ensemble, or a classifier of one CNN under a linear head.
        number: for the message.

    Raises:
        MemberMismatchError: another kind of model.
    """
    if isinstance(getattr(model, "members", None), nn.ModuleList):
        return model.config.members, [member.state_dict() for member in model.members]
    if not isinstance(getattr(model, "head", None), nn.Linear) or not hasattr(model.config, "backbone_kwargs"):
        raise MemberMismatchError(
            f"member {number} is a {type(model).__name__}; give ensembles, or classifiers of one CNN under one linear "
            "layer."
        )
    parts = {"backbone": model.backbone, "head": model.head}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return [{name: getattr(model.config, name) for name in MEMBER_FIELDS}], [state]


class EnsembleLesionModel(LesionFeatures, EnsembleForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
