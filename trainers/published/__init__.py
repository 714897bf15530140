"""The published checkpoint formats: each is read into a model of ours and written back by one module.

``FORMATS`` names each published system and its files, without importing torch; :func:`find_system` has everything else.
:mod:`trainers.import_published` and :mod:`trainers.export_published` are the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasets_scripts.command import UserError

if TYPE_CHECKING:
    from trainers.published.system import System

FORMATS = {
    "derm-x": "one .pt, .pth or .safetensors file",
    "ham10000-efficientnetv2-s": "one .pt, .pth or .safetensors file",
    "isic-ensemble": "the folder with member_<i>/best.pt (and manifest.json), or the member files in their order",
    "vit-lesions12": "the folder with config.json and model.safetensors",
}
WITHOUT_WEIGHTS = {
    "isic2017-resnet50": "its author published neither weights nor the widths of its layers; train it with "
    "trainers/train_resnet.py --recipe resnet_frozen"
}


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        UserError: there is none, or it published no weights.
    """
    check_system(name)
    from trainers.published.ensemble import ISIC_ENSEMBLE
    from trainers.published.torchvision_cnn import DERM_X, HAM10000_EFFICIENTNETV2_S
    from trainers.published.vit import VIT_LESIONS12

    known: tuple[System, ...] = (DERM_X, HAM10000_EFFICIENTNETV2_S, ISIC_ENSEMBLE, VIT_LESIONS12)
    return next(system for system in known if system.name == name)


def check_system(name: str) -> None:
    """Refuse a system that is unknown, or published no weights.

    Raises:
        UserError: names it.
    """
    if name in WITHOUT_WEIGHTS:
        raise UserError(f"system {name!r} cannot be read or written: {WITHOUT_WEIGHTS[name]}")
    if name not in FORMATS:
        raise UserError(f"system {name!r} is unknown: choose one of {', '.join(sorted(FORMATS))}")
