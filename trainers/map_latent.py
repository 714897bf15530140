"""Maps of a dataset as a model sees it, and numbers for how well its classes gather there.

``python -m trainers.map_latent --dataset D --model M [--autoencoder A] --out DIR`` maps each split in plain pixels,
in an autoencoder's codes and in the classifier's features. DIR then holds report.json, cluster_quality.csv and .md
(silhouette, and the class predicted by the nearest images of other lesions, with intervals and beside chance),
figures/*.png (t-SNE and the numbers, as charts), points.parquet, and map.html, a page that needs no network.

map.html shows thumbnails, thus real images: keep it where the dataset may be kept, or give --thumbnail 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets_scripts.command import OneLineParser, check_model, chosen, count_of, run, seed_of, shown_path
from trainers.model_folder.columns import add_columns, columns_given
from trainers.training.arguments import check_dataset


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.map_latent", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="dataset folder written by a build_* command, or a Hub dataset id")
    add("--config_name", default="grouped", help="the dataset's config (default: %(default)s)")
    add_columns(parser)
    add("--model", required=True, metavar="DIR_OR_REPO", help="an image classifier of the suite, trained on the labels")
    add("--autoencoder", metavar="DIR_OR_REPO", help="an autoencoder of the suite (default: none)")
    add("--splits", nargs="+", default=["train", "test"], help="splits to map, each by itself (default: train test)")
    add(
        "--perplexity",
        type=float,
        default=30.0,
        help="of t-SNE: how many neighbours an image keeps in view, 1 to below the images (default: %(default)g)",
    )
    add("--k", type=count_of, default=5, help="nearest images of other lesions that vote (default: %(default)s)")
    add("--metric", choices=("cosine", "euclidean"), default="cosine", help="distance (default: %(default)s)")
    add("--pixels", type=count_of, default=32, help="side of the downsized plain pixels (default: %(default)s px)")
    add(
        "--images",
        type=count_of,
        default=10_000,
        help="images per split at most, drawn by whole lesions; memory grows with the square (default: %(default)s)",
    )
    add(
        "--thumbnail",
        type=seed_of,
        default=96,
        help="longest side of the page's thumbnails; 0 = points only, nobody's image (default: %(default)s px)",
    )
    add("--batch_size", type=count_of, default=64, help="images per forward pass (default: %(default)s)")
    add("--bootstrap_replicates", type=count_of, default=1000, help="resamples of the intervals (default: %(default)s)")
    add("--seed", type=seed_of, default=0, help="of maps, draws and resamples (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write; absent or empty")
    return parser


def main() -> None:
    """Parse the command line and draw."""
    given = make_parser().parse_args()
    check_dataset(given.dataset)
    for option in ("model", "autoencoder"):
        if getattr(given, option):
            check_model(getattr(given, option), f"--{option}")
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.embeddings.map import Settings, map_latent
    from trainers.embeddings.map_tables import spaces
    from trainers.metrics.number import Number

    settings = chosen(Settings, given)
    splits = list(dict.fromkeys(given.splits))
    where = (given.dataset, given.config_name, given.model, given.autoencoder)
    report = map_latent(*where, splits, given.out, settings, columns_given(given))
    for split, kind, numbers in spaces(report):
        knn, silhouette = numbers["knn"], numbers["silhouette"]
        accuracy = Number.read(knn["balanced_accuracy"]).text()
        print(
            f"{split:>11} {kind:>9}: {given.k}-NN balanced accuracy {accuracy}, chance "
            f"{knn['chance']['value']:.3f}; silhouette {Number.read(silhouette['mean_over_classes']).text()}, chance "
            f"{silhouette['chance']['value']:.3f}"
        )
    print(f"finished: {shown_path(given.out)} (map.html, cluster_quality.md, report.json, figures)")


if __name__ == "__main__":
    run(main)
