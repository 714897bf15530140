"""Every command of the suite under one name: ``lesion COMMAND ...`` is ``python -m MODULE ...``.

A command's module is imported when that command runs, so that this list costs nothing.
"""

from __future__ import annotations

import os
import platform
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from datasets_scripts.command import did_you_mean, fail, run

# Group -> command -> its module and what it does.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "build a dataset": {
        "build_images": ("datasets_scripts.build_images", "your own images: class folders, a table, or a dataset"),
        "build_ham10000": ("datasets_scripts.build_ham10000", "HAM10000, seven diagnoses"),
        "build_dermoscopy": ("datasets_scripts.build_dermoscopy", "HAM10000 and ISIC 2017 in one dataset"),
        "build_dermx": ("datasets_scripts.build_dermx", "the Derm-X dataset: HAM10000 and acne"),
        "build_archive": (
            "datasets_scripts.build_archive",
            "PAD-UFES-20, ISIC 2018 to 2024, Derm7pt, DDI, MILK10k, ...",
        ),
        "build_isic_binary": ("datasets_scripts.build_isic_binary", "ISIC archive, benign or malignant"),
        "build_isic2017": ("datasets_scripts.build_isic2017", "the ISIC 2017 challenge"),
        "build_lesions12": ("datasets_scripts.build_lesions12", "a folder of images for each class, twelve classes"),
        "audit": ("datasets_scripts.audit_dataset", "leaks, duplicates and likely label errors of datasets"),
        "build_phantom": ("datasets_scripts.build_phantom", "drawn phantom images"),
        "phantom_sheet": ("datasets_scripts.phantom_sheet", "one image that shows phantoms of every class"),
        "simulate_acne": ("datasets_scripts.simulate_acne", "a simulated study of acne over time"),
    },
    "train": {
        "train_mobilenet": ("trainers.train_mobilenet", "Derm-X: MobileNetV2 with a linear head"),
        "train_ensemble": ("trainers.train_ensemble", "the ISIC deep ensemble"),
        "train_resnet": ("trainers.train_resnet", "the ISIC 2017 classifier, ResNet-50"),
        "train_efficientnet": ("trainers.train_efficientnet", "the image-only baseline of HAM10000"),
        "train_metadata": ("trainers.train_metadata", "the metadata-only model of HAM10000"),
        "train_fusion": ("trainers.train_fusion", "the late fusion of image and metadata"),
        "train_vit": ("trainers.train_vit", "the 12-class vision transformer"),
        "train_image_classifier": ("trainers.train_image_classifier", "a classifier on any backbone, --backbone NAME"),
        "train_probe": ("trainers.train_probe", "a linear head on the features of a frozen backbone, or one of texts"),
        "train_autoencoder": ("trainers.train_autoencoder", "an autoencoder of lesion images"),
        "cross_validate": ("trainers.cross_validate", "a training on every fold, and the pooled report"),
        "leak_cost": ("trainers.leak_cost", "what a leak between the splits costs: one recipe on two splits"),
    },
    "use and evaluate a model": {
        "score": ("trainers.score", "the answer to one image, or to a folder; with labels, a report"),
        "fit_trust": ("trainers.fit_trust", "temperature, bands, prediction sets and gate of a trained model"),
        "check_shift": ("trainers.check_shift", "whether a model's promises may fail on images, without labels"),
        "recalibrate": ("trainers.recalibrate", "a model's promises on lesions of your own, without training"),
        "export": ("trainers.export", "a graph of OpenVINO or ONNX for fast answers on a CPU"),
        "compare": ("trainers.compare", "two models on the same images"),
        "matrix": ("trainers.matrix", "models on datasets, every pair, as one table"),
        "similar": ("trainers.similar", "similar images of a collection"),
        "map_latent": ("trainers.map_latent", "a map of a model's features"),
        "measure_explanations": ("trainers.measure_explanations", "how good the heat maps are"),
        "measure_robustness": ("trainers.measure_robustness", "corrupted, cut, turned images; without the lesion"),
        "measure_uncertainty": ("trainers.measure_uncertainty", "ensemble, MC dropout, flips, Laplace: what pays"),
        "measure_recalibration": ("trainers.measure_recalibration", "what recalibration on n local lesions gains"),
        "measure_preprocessing": ("trainers.measure_preprocessing", "hair removal, lesion crop, and their time"),
        "compare_autoencoders": ("trainers.autoencoding.compare", "two autoencoders on the same images"),
        "compare_probes": (
            "trainers.probing.compare",
            "linear probes of several backbones, sizes and shares of labels",
        ),
        "autoencoder_sheet": ("trainers.autoencoding.sheet", "reconstructions of phantoms as one image"),
    },
    "reproduce published systems": {
        "import_published": ("trainers.import_published", "published weights as a model folder"),
        "export_published": ("trainers.export_published", "a model folder as published weights"),
        "isic2017_results": ("trainers.isic2017_results", "the tables of the ISIC 2017 challenge"),
        "fit_acne_longitudinal": ("trainers.fit_acne_longitudinal", "treatment effects of a study over time"),
        "severity": ("trainers.longitudinal.severity", "scored images and visits as a table of days"),
        "coverage": ("trainers.longitudinal.coverage", "coverage of the intervals on simulated studies"),
    },
    "describe and publish": {
        "build": ("model_cards.build", "the card and the manifest of a folder"),
        "verify": ("model_cards.verify", "whether a folder or repository is as it was finished"),
        "publish": ("model_cards.publish", "a finished folder, on the Hub"),
        "results_table": ("model_cards.results_table", "the results table of README.md"),
        "rebuild": ("trainers.rebuild", "report, figures and card from the stored predictions"),
        "release": ("trainers.release", "a model folder for hub_models/released"),
        "demo": ("trainers.demo", "everything once, on phantoms"),
    },
}
LIBRARIES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate", "huggingface_hub", "gradio")
# Module of an optional package -> what it is for.
OPTIONAL = {
    "openvino": "fast answers on a CPU (pip install 'lesion-suite[fast]')",
    "faiss": "similar images (pip install 'lesion-suite[similar]')",
    "pillow_heif": "HEIC images of a phone (pip install pillow-heif)",
    "tensorboard": "--report_to tensorboard (pip install tensorboard)",
}


def main() -> None:
    """Run the command that the first word names.

    Raises:
        SystemExit: with the command's own exit code.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return
    table = {command: module for group in COMMANDS.values() for command, (module, _) in group.items()}
    name = words[0].replace("-", "_")
    if name == "env":
        print(environment())
        return
    # `lesion build archive`, where that is not a model's folder.
    if len(words) > 1 and f"{name}_{words[1]}" in table and not Path(words[1], "config.json").is_file():
        name = f"{name}_{words.pop(1)}"
    if name not in table:
        hint = did_you_mean(words[0], [*table, "env"]) or ": `lesion --help` lists all commands"
        fail([f"unknown command {words[0]!r}{hint}"])
    sys.argv = sys.argv[:1] + words[1:]
    runpy.run_module(table[name], run_name="__main__", alter_sys=True)


def overview() -> str:
    """The list of all commands in groups."""
    width = max(len(name) for group in COMMANDS.values() for name in group)
    lines = ["usage: lesion COMMAND ...    (lesion COMMAND --help states its options)", ""]
    for group, commands in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<{width}}  {text}" for name, (_, text) in commands.items()), ""]
    lines += ["other:", f"  {'env':<{width}}  versions, device, cores and optional packages"]
    return "\n".join(lines)


def environment() -> str:
    """Versions, device, cores and optional packages, one per line."""
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    elif torch.backends.mps.is_available():
        device = "mps"
    rows = [("lesion-suite", installed("lesion-suite")), ("python", platform.python_version())]
    rows += [(name, installed(name)) for name in LIBRARIES]
    rows += [("device", device), ("cores", str(len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count()))]
    for module, purpose in OPTIONAL.items():
        rows.append((module, "installed" if find_spec(module) else f"not installed: {purpose}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def installed(name: str) -> str:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


_LINUX = hasattr(os, "sched_getaffinity")


def entry() -> None:
    """The console script ``lesion``."""
    run(main)


if __name__ == "__main__":
    entry()
