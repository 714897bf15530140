"""What a card must cite: the data, the architecture, the fitted trust, and the published system a recipe follows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets_scripts import phantom_rows
from datasets_scripts.command import UserError
from datasets_scripts.sources import class_folders, dermnet, ham10000, isic2017, isic_archive


def read_bib(path: Path) -> dict[str, str]:
    """Key -> entry of a BibTeX file whose entries begin with ``@`` in the first column and end at a ``}`` there."""
    found = re.finditer(r"^@\w+\{([^,]+),.*?^\}$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {entry[1]: entry[0] for entry in found}


ENTRIES = read_bib(Path(__file__).with_name("citations.bib"))
BY_SOURCE = {source.SOURCE: source.CITATION.strip() for source in (ham10000, isic2017, isic_archive)}
# What the name of a backbone, or the id of its weights, begins with -> its key.
BY_BACKBONE_PREFIX = {
    "bit": "kolesnikov2020bit",
    "clip_vision_model": "radford2021clip",
    "convnext": "liu2022convnext",
    "dinov2": "oquab2024dinov2",
    "dinov3": "simeoni2025dinov3",
    "efficientnetv2": "tan2021efficientnetv2",
    "mobilenetv2": "sandler2018mobilenetv2",
    "redlessone/DermLIP": "yan2025derm1m",
    "resnet": "he2016resnet",
    "siglip": "zhai2023siglip",
    "suinleelab/monet": "kim2024monet",
    "swin": "liu2021swin",
    "tf_efficientnet_lite": "tan2019efficientnet",
    "vit": "dosovitskiy2021vit",
}
BY_SYSTEM = {
    "derm-x": [ENTRIES["dermx2025"]],
    "ham10000-efficientnetv2-s": [ENTRIES["ham10000efficientnetv2s"]],
    "isic-ensemble": [ENTRIES["isicuncertainty"], ENTRIES["lakshminarayanan2017ensembles"]],
    "isic2017-resnet50": [ENTRIES["sagardia2022isic2017"], isic2017.CITATION.strip()],
    "vit-large-lesions12": [ENTRIES["vitlarge12lesions"]],
}
# Method of the prediction sets, and detector of the gate -> its key.
BY_SETS = {"lac": "sadinle2019lac", "aps": "romano2020aps", "raps": "angelopoulos2021raps"}
BY_DETECTOR = {
    "max_softmax": "hendrycks2017baseline",
    "max_logit": "hendrycks2022scaling",
    "energy": "liu2020energy",
    "mahalanobis": "lee2018mahalanobis",
    "early_mahalanobis": "lee2018mahalanobis",
    "nearest_neighbours": "sun2022knn",
    "vim": "wang2022vim",
}
# The command that builds a recipe's dataset -> the values that the ``source`` column of that dataset may have.
BY_BUILDER: Mapping[str, Collection[str]] = {
    "build_dermoscopy": (ham10000.SOURCE, isic2017.SOURCE),
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
        backbones: names in timm, model types of towers, Hub ids of their weights.
        system: key of the published system a recipe follows, or "".
    """
    found = list(BY_SYSTEM.get(system, []))
    found += [entry for source, entry in BY_SOURCE.items() if source in sources]
    found += [
        ENTRIES[key] for prefix, key in BY_BACKBONE_PREFIX.items() if any(name.startswith(prefix) for name in backbones)
    ]
    return list(dict.fromkeys(found))


def trust_citations(trust: Mapping[str, Any]) -> list[str]:
    """The papers behind what a model's ``config.trust`` holds; none where nothing was fitted."""
    keys = ["guo2017calibration"] if "temperature" in trust else []
    if trust.get("temperature", {}).get("kind") == "bias_corrected":
        keys.append("alexandari2020bcts")
    if "conformal" in trust:
        keys.append(BY_SETS[trust["conformal"]["method"]])
    if "bands" in trust:
        keys.append("angelopoulos2025ltt")
    if "decision" in trust:
        keys += ["menon2021logit", "elkan2001cost"]
    if "ood" in trust:
        keys.append(BY_DETECTOR[trust["ood"]["detector"]])
    return [ENTRIES[key] for key in keys]


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
