"""Configuration of the deep ensemble: K members in one model, each a CNN of timm with dropout and a linear head."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .checks_lesion import MOST_MEMBERS, brief, is_number
from .configuration_lesion import LesionConfig, LesionConfigError, check_backbone

MEMBER_FIELDS = ("backbone", "backbone_kwargs", "dropout")


class EnsembleLesionConfig(LesionConfig):
    """Five ResNet-50 at 320 px with dropout 0.3 and a linear head each, as published; any CNNs of timm may take part.

    Paper: Lakshminarayanan et al. 2017, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles.

    Args:
        members: one dictionary a member with ``backbone`` (timm name), ``backbone_kwargs`` and ``dropout``; empty = a
            single member made of the fields ``backbone``, ``backbone_kwargs`` and ``dropout``.

    Raises:
        LesionConfigError: a member with another field, or one that is missing.
    """

    model_type = "lesion_ensemble"

    image_size: int = 320
    backbone: str = "resnet50"
    dropout: float = 0.3
    members: list[dict[str, Any]] = field(default_factory=list)

    @property
    def backbones(self) -> list[str]:
        """The members' architectures."""
        return [member["backbone"] for member in self.members]

    def check(self) -> None:
        """Check every value, and write a single member down as such."""
        super().check()
        if not isinstance(self.members, list) or len(self.members) > MOST_MEMBERS:
            amount = f"{len(self.members)} entries" if isinstance(self.members, list) else brief(self.members)
            raise LesionConfigError(f"members is {amount}; give a list of at most {MOST_MEMBERS}.")
        if not self.members:
            self.members = [{name: getattr(self, name) for name in MEMBER_FIELDS}]
        for number, member in enumerate(self.members):
            if not isinstance(member, dict) or set(member) != set(MEMBER_FIELDS):
                raise LesionConfigError(
                    f"members[{number}] is {brief(member)}; give a dictionary with exactly {', '.join(MEMBER_FIELDS)}."
                )
            check_backbone(member["backbone"], member["backbone_kwargs"], f"members[{number}]: ")
            drop = member["dropout"]
            if not is_number(drop) or not 0.0 <= drop < 1.0:
                raise LesionConfigError(f"members[{number}] has dropout {brief(drop)}; give a probability in [0, 1).")
