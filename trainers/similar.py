"""Similar cases: which lesions of a dataset look to a model like an image, how good they are, and a gallery of them.

``python -m trainers.similar --model M --dataset D --image X --k 8`` prints the k nearest cases (X: a file, or an
image_id of the dataset); --out adds similar.json and similar.png. The query's own lesion, and the same image under
any name, are never among them, and a lesion is shown once. It says when the model's gate declines the image.

``--evaluate`` takes every image of --query_split as a query, and reports precision at 1 and at k by class.
``--build_gallery DIR`` writes the folder that the Space reads. The gallery and similar.png hold real images: keep them
where the dataset may be kept. Features are computed once and kept in the cache folder of `datasets`
(HF_DATASETS_CACHE).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, chosen, count_of, run, seed_of, shown_path
from trainers.model_folder.columns import add_columns, columns_given


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.similar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR_OR_REPO", help="an image classifier of the suite, trained on the labels")
    add("--dataset", required=True, help="dataset folder written by a build_* command, or a Hub dataset id")
    add("--config_name", default="grouped", help="the dataset's config (default: %(default)s)")
    add_columns(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="FILE_OR_ID", help="the image to compare")
    what.add_argument("--evaluate", action="store_true", help="measure precision at k on a whole split")
    what.add_argument("--build_gallery", "--build-gallery", type=Path, metavar="DIR", help="the gallery to write")
    add("--k", type=int, default=8, help="similar cases, of different lesions (default: %(default)s)")
    add("--split", default="train", help="split of the cases that are found (default: %(default)s)")
    add("--query_split", default="test", help="with --evaluate: split of the queries (default: %(default)s)")
    add(
        "--per_class",
        type=count_of,
        metavar="N",
        help="images per class at most, drawn over as many lesions as there are (default: all)",
    )
    add("--out", type=Path, metavar="DIR", help="with --image or --evaluate: folder to write; absent or empty")
    add("--batch_size", type=count_of, default=64, help="images per forward pass (default: %(default)s)")
    add("--bootstrap_replicates", type=count_of, default=1000, help="resamples of the intervals (default: %(default)s)")
    add("--seed", type=seed_of, default=0, help="of draws and resamples (default: %(default)s)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded.

    Raises:
        UserError: names the option and what to do.
    """
    if given.k < 1:
        raise UserError(f"--k {given.k}: give at least 1 similar case")
    if given.build_gallery is not None and given.out is not None:
        raise UserError(f"--out {str(given.out)!r}: a gallery is written to --build_gallery; leave --out out")


def main() -> None:
    """Parse the command line and do one of the three."""
    given = make_parser().parse_args()
    check(given)
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.embeddings.retrieval import print_precision
    from trainers.embeddings.search import in_words
    from trainers.embeddings.similar import Settings, evaluate, gallery, similar

    settings = chosen(Settings, given, columns=columns_given(given))
    if given.build_gallery is not None:
        made = gallery(given.model, settings, given.build_gallery)
        print(f"finished: {shown_path(given.build_gallery)} ({made['n']:,} images, {made['dim']:,} features each)")
        return
    if given.evaluate:
        print_precision(evaluate(given.model, given.query_split, settings, given.out, given.bootstrap_replicates))
    else:
        print(in_words(similar(given.model, given.image, settings, given.out)))
    if given.out is not None:
        print(f"finished: {shown_path(given.out)}")


if __name__ == "__main__":
    run(main)
