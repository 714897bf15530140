"""What a card must cite: the data, the architecture, the calibration, and the published system a recipe follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets_scripts import phantom_rows
from datasets_scripts.command import UserError
from datasets_scripts.sources import class_folders, dermnet, ham10000, isic2017, isic_archive

MOBILENET_V2 = """@inproceedings{sandler2018mobilenetv2,
  title = {MobileNetV2: Inverted Residuals and Linear Bottlenecks},
  author = {Sandler, Mark and Howard, Andrew and Zhu, Menglong and Zhmoginov, Andrey and Chen, Liang-Chieh},
  booktitle = {CVPR},
  year = {2018}
}"""
RESNET = """@inproceedings{he2016resnet,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {CVPR},
  year = {2016}
}"""
EFFICIENTNET = """@inproceedings{tan2019efficientnet,
  title = {EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks},
  author = {Tan, Mingxing and Le, Quoc V.},
  booktitle = {ICML},
  year = {2019}
}"""
EFFICIENTNET_V2 = """@inproceedings{tan2021efficientnetv2,
  title = {EfficientNetV2: Smaller Models and Faster Training},
  author = {Tan, Mingxing and Le, Quoc V.},
  booktitle = {ICML},
  year = {2021}
}"""
DEEP_ENSEMBLES = """@inproceedings{lakshminarayanan2017ensembles,
  title = {Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles},
  author = {Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles},
  booktitle = {NeurIPS},
  year = {2017}
}"""
ISIC_ENSEMBLE = """@misc{isicuncertainty,
  title = {ISIC skin lesion classifier with calibrated uncertainty},
  author = {{Governor6191}},
  note = {The published system: Hugging Face Hub, Governor6191/isic-skin-lesion-uncertainty}
}"""
HAM_EFFICIENTNET = """@misc{ham10000efficientnetv2s,
  title = {EfficientNetV2-S HAM10000 Image-Only Baseline},
  note = {The published system: a model card of the Hugging Face Hub}
}"""
VIT = """@inproceedings{dosovitskiy2021vit,
  title = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua and
    Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and
    Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {ICLR},
  year = {2021}
}"""
VIT_LESIONS12 = """@misc{vitlarge12lesions,
  title = {vit-large-patch32-384-finetuned-skin-lesion-classification},
  note = {The published system: a model card of the Hugging Face Hub, started from
    UnipaPolitoUnimore/vit-large-patch32-384-melanoma}
}"""
ISIC2017_RESNET = """@misc{sagardia2022isic2017,
  title = {Skin lesion classification: melanoma, nevus and seborrheic keratosis with a frozen ResNet50},
  author = {Sagardia, Mikel},
  year = {2022},
  note = {The published system: a project on part 3 of the ISIC 2017 challenge}
}"""
DERM_X = """@misc{dermx2025,
  title = {Derm-X: Explainable Deep Learning for Skin Lesion Detection},
  author = {Pandit, Yash},
  year = {2025},
  note = {The published system}
}"""

BY_SOURCE = {source.SOURCE: source.CITATION.strip() for source in (ham10000, isic2017, isic_archive)}
BY_BACKBONE_PREFIX = {
    "efficientnetv2": EFFICIENTNET_V2,
    "mobilenetv2": MOBILENET_V2,
    "resnet": RESNET,
    "tf_efficientnet_lite": EFFICIENTNET,
    "vit_": VIT,
}
BY_SYSTEM = {
    "derm-x": [DERM_X],
    "ham10000-efficientnetv2-s": [HAM_EFFICIENTNET],
    "isic-ensemble": [ISIC_ENSEMBLE, DEEP_ENSEMBLES],
    "isic2017-resnet50": [ISIC2017_RESNET, isic2017.CITATION.strip()],
    "vit-large-lesions12": [VIT_LESIONS12],
}
# The command that builds a recipe's dataset -> what the ``source`` column of that dataset may say.
BY_BUILDER: Mapping[str, Collection[str]] = {
    "build_dermx": (ham10000.SOURCE, dermnet.SOURCE),
    "build_ham10000": (ham10000.SOURCE,),
    "build_isic2017": (isic2017.SOURCE, ham10000.SOURCE),
    "build_isic_binary": (isic_archive.SOURCE, ham10000.SOURCE),
    "build_lesions12": (class_folders.SOURCE,),
    "build_phantom": (phantom_rows.SOURCE,),
}


def is_recipes_own(command: str, sources: Sequence[str]) -> bool:
    """Whether images come from where a recipe's own dataset does: only then its name, title and licence hold.

    Args:
        command: the recipe's ``dataset_command``; a recipe without one is the user's own, and holds for any images.
        sources: the ``source`` values of the dataset.
    """
    own = next((found for builder, found in BY_BUILDER.items() if builder in command), None)
    return not command or (own is not None and bool(sources) and set(sources) <= set(own))


def own_citation(citation: str) -> list[str]:
    """What ``--citation`` gives: the text itself, or that of the file it names; empty where there is none.

    Raises:
        UserError: it looks like a file's name, and there is no such file, or it is no text.
    """
    text = citation.strip()
    if not text or len(text.split()) > 1 or Path(text).suffix.lower() not in (".bib", ".txt"):
        return [text] if text else []
    try:
        return [Path(text).read_text(encoding="utf-8").strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"citation {text!r} cannot be read ({error}): give BibTeX, or a file that holds it") from error


def citations(sources: list[str], backbones: list[str], system: str) -> list[str]:
    """BibTeX entries for a model's card.

    Args:
        sources: the dataset's ``source`` values.
        backbones: timm names.
        system: key of the published system a recipe follows, or "".
    """
    found = list(BY_SYSTEM.get(system, []))
    found += [entry for source, entry in BY_SOURCE.items() if source in sources]
    found += [
        entry for prefix, entry in BY_BACKBONE_PREFIX.items() if any(name.startswith(prefix) for name in backbones)
    ]
    return list(dict.fromkeys(found))


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
            "The acne photographs are not HAM10000's kind of image: part of what separates them is the source. They "
            "carry no licence, so weights trained on them are for local study and are not released."
        )
    return found
