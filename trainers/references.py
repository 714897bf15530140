"""What a card must cite: the data, the architecture, the calibration, and the published system a recipe follows."""

from __future__ import annotations

from datasets_scripts.sources import ham10000

MOBILENET_V2 = """@inproceedings{sandler2018mobilenetv2,
  title = {MobileNetV2: Inverted Residuals and Linear Bottlenecks},
  author = {Sandler, Mark and Howard, Andrew and Zhu, Menglong and Zhmoginov, Andrey and Chen, Liang-Chieh},
  booktitle = {CVPR},
  year = {2018}
}"""
TEMPERATURE = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {ICML},
  year = {2017}
}"""
DERM_X = """@misc{dermx2025,
  title = {Derm-X: Explainable Deep Learning for Skin Lesion Detection},
  author = {Pandit, Yash},
  year = {2025},
  note = {The published system this recipe follows}
}"""

BY_SOURCE = {"HAM10000": ham10000.CITATION.strip()}
BY_BACKBONE_PREFIX = {"mobilenetv2": MOBILENET_V2}
BY_SYSTEM = {"derm-x": DERM_X}


def citations(sources: list[str], backbone: str, system: str) -> list[str]:
    """BibTeX entries for a model's card.

    Args:
        sources: the dataset's ``source`` values.
        backbone: timm name.
        system: key of the published system a recipe follows, or "".
    """
    found = [BY_SYSTEM[system]] if system in BY_SYSTEM else []
    found += [entry for source, entry in BY_SOURCE.items() if source in sources]
    found += [entry for prefix, entry in BY_BACKBONE_PREFIX.items() if backbone.startswith(prefix)]
    return [*found, TEMPERATURE]


def notes(sources: list[str], image_sizes: dict[str, int]) -> list[str]:
    """Sentences about the data that a card must not leave out."""
    found = []
    if "HAM10000" in sources and "600x450" not in image_sizes:
        sizes = ", ".join(size.replace("x", " x ") for size in image_sizes if size != "other")
        found.append(
            "HAM10000 publishes its images at 600 x 450 pixels; the copies used here are smaller "
            f"({sizes}), which costs detail."
        )
    if "DermNet" in sources:
        found.append(
            "The acne photographs are not HAM10000's kind of picture: part of what separates them is the source. They "
            "carry no licence, so weights trained on them are for local study and are not released."
        )
    return found
