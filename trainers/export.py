"""Export a finished model for fast answers on a CPU: ``python -m trainers.export MODEL --format openvino ...``.

The network of all members becomes one graph of OpenVINO or ONNX beside the weights. It is accepted only where it
answers as torch does, on the half of the calibration split that the quantisation did not see: at least 99.5 % of the
same decisions (class, verdict, flag of malignancy), 99 % of the same prediction sets, and an ECE that moves by less
than 0.002. The result is a new, complete Hub folder. `score` and the Space use its graph where the runtime is
installed; in Python call `model.use_backend("auto")`. Without --calibration_images only f32 is possible, compared on
random pixels.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import OneLineParser, check_model, run, shown_path
from trainers.training.arguments import check_dataset

# Those of hub_models.backend_lesion and trainers.model_folder.export, which --help need not wait for.
FORMATS = ("openvino", "onnx")
PRECISIONS = ("f32", "bf16", "int8")


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.export", description=__doc__)
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model with fitted trust: a folder, or ORG/NAME[@REVISION]")
    add(
        "--format",
        required=True,
        choices=FORMATS,
        help="takes the package openvino, or onnx and onnxruntime",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="f32",
        help="f32; bf16, on a CPU that has it; int8, weights and activations of 8 bits, which takes the package nncf "
        "(default %(default)s)",
    )
    add(
        "--calibration_images",
        default="",
        metavar="DIR_OR_DATASET",
        help="a dataset with labels, such as the one that trust was fitted on: half of its calibration split sets the "
        "ranges of int8, the other half is compared; needed for bf16 and int8",
    )
    add("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and export."""
    given = parse()
    check_model(given.model, "the model")
    if given.calibration_images:
        check_dataset(given.calibration_images)
    from trainers.model_folder.export import check_possible, export

    check_possible(given.format, given.precision, bool(given.calibration_images))
    splits = None
    if given.calibration_images:
        from trainers.model_folder.folder import load_splits_of

        splits = load_splits_of(given.model, given.calibration_images, given.config_name)
    figures = export(given.model, splits, given.output_dir, form=given.format, precision=given.precision)
    if figures["images"]:
        print(
            f"of {figures['images']} images the graph gives {figures['decisions']:.2%} of the same decisions and "
            f"{figures['sets']:.2%} of the same sets; ECE {figures['ece']:.4f} with torch, {figures['ece_graph']:.4f} "
            "with it"
        )
    print(f"exported: {shown_path(given.output_dir)} is a complete Hub repo (README.md is its card)")


if __name__ == "__main__":
    run(main)
