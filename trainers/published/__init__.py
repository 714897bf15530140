"""The published checkpoint formats: one file a format reads it into a model of ours and writes it back.

``SYSTEMS`` holds what is known of each published system; :mod:`trainers.import_published` and
:mod:`trainers.export_published` are the commands.
"""

from __future__ import annotations

from trainers.errors import UserError
from trainers.published.ensemble import ISIC_ENSEMBLE
from trainers.published.system import Imported, System
from trainers.published.torchvision_cnn import DERM_X, HAM10000_EFFICIENTNETV2_S
from trainers.published.vit import VIT_LESIONS12

SYSTEMS = {system.name: system for system in (DERM_X, HAM10000_EFFICIENTNETV2_S, ISIC_ENSEMBLE, VIT_LESIONS12)}
WITHOUT_WEIGHTS = {
    "isic2017-resnet50": "its author published neither weights nor the widths of its layers; train it with "
    "trainers/train_resnet.py --recipe resnet_frozen"
}


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        UserError: there is none, or it published no weights.
    """
    if name in WITHOUT_WEIGHTS:
        raise UserError(f"system {name!r} cannot be read or written: {WITHOUT_WEIGHTS[name]}")
    if name not in SYSTEMS:
        raise UserError(f"system {name!r} is unknown: choose one of {', '.join(sorted(SYSTEMS))}")
    return SYSTEMS[name]


__all__ = ["SYSTEMS", "Imported", "System", "find_system"]
