"""Compare two autoencoders on the same images: differences with paired intervals by lesion.

``python -m trainers.autoencoding.compare A B`` reads the stored reconstructions of two finished folders. Seconds, no
model, no accelerator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.manifest import write_text
from trainers.model_folder.output import check_new_file

if TYPE_CHECKING:
    from trainers.autoencoding.reconstructing import Reconstructions


SCHEMA_VERSION = 1
FILE = "reconstructions_test.parquet"
NAMES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "psnr_8bit": "PSNR with codes of 8 bits (dB)",
    "psnr_denoised": "PSNR from noisy images (dB)",
}


def load(path: Path) -> tuple[str, Reconstructions]:
    """A finished folder's test reconstructions, or a reconstructions file, and what messages call it.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    file = path / FILE if path.is_dir() else path
    name = path.name or str(path)
    if not file.is_file():
        what = f"holds no {FILE}" if path.is_dir() else "does not exist"
        raise UserError(f"{str(path)!r} {what}: give a finished autoencoder's folder or its {FILE}")
    from trainers.autoencoding.reconstructing import read_reconstructions

    return name, read_reconstructions(file)


def same_images(a: Reconstructions, b: Reconstructions) -> np.ndarray:
    """The rows of ``b`` in the order of ``a``: (N,) int.

    Raises:
        UserError: they are not of the same images, or an image stands in one of them twice.
    """
    rows = {image: row for row, image in enumerate(b.image_id)}
    if len(rows) < len(b) or set(rows) != set(a.image_id) or len(rows) != len(a):
        shared = len(set(rows) & set(a.image_id))
        raise UserError(
            f"the two are of {len(a)} and {len(b)} images, {shared} of them shared: give autoencoders evaluated on the "
            "same split of one dataset"
        )
    return np.array([rows[image] for image in a.image_id])


def compare(a: Reconstructions, b: Reconstructions, *, replicates: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Every score that both have: of each side, and ``b - a`` with its paired interval.

    Args:
        a: one autoencoder's.
        b: another's, on the same images.
        replicates: of the bootstrap over lesions, within each class; one resample serves both sides.
        seed: of the resamples.

    Returns:
        JSON-ready: ``n, n_groups, code_sizes`` and ``scores``: name -> ``a, b, difference``.

    Raises:
        UserError: other images.
    """
    order = same_images(a, b)
    groups = np.asarray(a.group_id).astype(str)
    from trainers.autoencoding.evaluate import mean_gain, signed_mean
    from trainers.metrics.intervals import bootstrap_weights, can_resample

    weights = bootstrap_weights(groups, a.label, replicates, seed) if can_resample(groups, a.label) else None
    names = [name for name in a.scores if name in b.scores and (name in NAMES or name in grid_names(a))]
    scores = {}
    for name in names:
        ours, theirs = a.scores[name], b.scores[name][order]
        scores[name] = {
            "a": signed_mean(ours, weights),
            "b": signed_mean(theirs, weights),
            "difference": mean_gain(ours, theirs, weights),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "n": len(a),
        "n_groups": len(np.unique(groups)),
        "code_sizes": [a.codes.shape[1], b.codes.shape[1]],
        "scores": scores,
    }


def grid_names(found: Reconstructions) -> dict[str, str]:
    """The checkerboard's scores in words."""
    named = {}
    for period in found.periods:
        named[f"grid_{period}_db"] = f"grid every {period} pixels, over beside it (dB)"
        named[f"grid_{period}_rms"] = f"grid every {period} pixels, grey levels"
    return named


def markdown(result: dict[str, Any], a: tuple[str, Reconstructions], b: tuple[str, Reconstructions]) -> str:
    """The comparison as a table."""
    from trainers.metrics.number import Number

    words = {**NAMES, **grid_names(a[1])}
    rows = [f"| {result['n']:,} images of {result['n_groups']:,} lesions | {a[0]} | {b[0]} | difference |"]
    rows.append("|---|---:|---:|---:|")
    for name, cells in result["scores"].items():
        shown = [Number.read(cells[side]).text() for side in ("a", "b")]
        shown.append(Number.read(cells["difference"]).text(signed=True))
        rows.append(f"| {words[name]} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def main() -> None:
    """Parse the command line and compare."""
    parser = OneLineParser(prog="python -m trainers.autoencoding.compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="a finished autoencoder's folder, or a reconstructions file")
    parser.add_argument("b", type=Path, metavar="B", help="another, evaluated on the same images")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the numbers into this JSON file (default: none)")
    given = parser.parse_args()
    if given.replicates < 1 or given.seed < 0:
        raise UserError(f"--replicates {given.replicates} and --seed {given.seed}: give at least 1 and at least 0")
    if given.out:
        check_new_file(given.out)
    a, b = load(given.a), load(given.b)
    result = compare(a[1], b[1], replicates=given.replicates, seed=given.seed)
    print(markdown(result, a, b))
    if result["code_sizes"][0] != result["code_sizes"][1]:
        print(f"note: their codes differ in size, {result['code_sizes'][0]} and {result['code_sizes'][1]} numbers")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(given.out, json.dumps(result, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    run(main)
