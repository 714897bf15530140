"""Linear probes of several backbones, image sizes and shares of labels, on one test split: a Markdown table.

``python -m trainers.probing.compare --dataset D --backbones A B=WEIGHTS.safetensors --image_sizes 144 224 --out T.md``
computes the features of each backbone and size once, fits a head for each share of labels (the L2 penalty is chosen
within train, never on the test split), and evaluates each source of the test split by itself, with intervals by lesion.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

from datasets_scripts.command import OneLineParser, UserError, count_of, run, seed_of, shown_path
from trainers.probing.options import add_shared, check_fraction, shared
from trainers.training.arguments import check_dataset

DATASET = ("dataset", "config_name", "image_column", "label_column", "group_column")
HEADER = (
    "backbone",
    "px",
    "labels: images (lesions)",
    "L2",
    "test source",
    "accuracy",
    "balanced accuracy",
    "macro F1",
    "AUROC of `p_malignant`",
    "features, min",
    "fit, s",
)


def parse() -> Namespace:
    """The command line.

    Raises:
        UserError: a value that no run could mean; the dataset does not exist.
    """
    parser = OneLineParser(
        prog="python -m trainers.probing.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shared(parser, (*DATASET, "resize_mode", "class_weights", "bootstrap_replicates"))
    add = parser.add_argument
    add(
        "--backbones",
        required=True,
        nargs="+",
        metavar="NAME[=WEIGHTS]",
        help="backbones as --backbone of train_probe names them, each perhaps with its --backbone_weights",
    )
    add(
        "--image_sizes",
        nargs="+",
        type=seed_of,
        default=[0],
        help="sides of the square input, pixels; 0 = the backbone's own (default: 0)",
    )
    add(
        "--label_fractions",
        nargs="+",
        type=float,
        default=[0.1, 1.0],
        help="shares of the train split's groups whose labels are used (default: 0.1 1)",
    )
    add("--split", default="test", help="the split to evaluate (default: %(default)s)")
    add("--folds", type=count_of, default=5, help="folds that choose the L2 penalty (default: %(default)s)")
    add("--seed", type=seed_of, default=42, help="of folds and resamples (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="FILE.md", help="the table; a file that is there is replaced")
    given = parser.parse_args()
    for fraction in given.label_fractions:
        check_fraction(fraction)
    check_dataset(given.dataset)
    return given


def main() -> None:
    """Parse the command line, evaluate, and write the table after each backbone and size."""
    given = parse()
    from trainers.model_folder.output import check_file

    check_file(given.out, "probes.md")
    lines = [row_of(HEADER), row_of(["---"] * 2 + ["---:"] * 2 + ["---"] + ["---:"] * 6)]
    for name in given.backbones:
        backbone, _, weights = name.partition("=")
        for size in given.image_sizes:
            options = shared(given, backbone=backbone, backbone_weights=weights or "pretrained", image_size=size)
            for row in evaluate(options, given):
                lines.append(row_of(row))
                print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {shown_path(given.out)}")


def row_of(cells: Any) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def evaluate(options: Any, given: Namespace) -> list[list[str]]:
    """The rows of one backbone and size.

    Raises:
        UserError: backbone, dataset or split.
    """
    import time

    import numpy as np

    from trainers.probing.features import features_of
    from trainers.probing.fit import choose_labelled, fit_head
    from trainers.probing.run import prepare

    splits, model, processor = prepare(options)
    if given.split not in splits.splits:
        raise UserError(f"--split {given.split!r}: the dataset has {', '.join(splits.splits)}")
    parts = ("train", given.split)
    labels = {name: np.array(splits.splits[name]["label"][:], dtype=np.int64) for name in parts}
    groups = {name: splits.column(name, "group_id") for name in parts}
    # A smaller share is part of a larger one: no other image of train is needed.
    used = choose_labelled(groups["train"], labels["train"], max(given.label_fractions))
    rows_of = {"train": splits.splits["train"].select(np.flatnonzero(used)), given.split: splits.splits[given.split]}
    start = time.perf_counter()
    seen = {name: features_of(model, processor, rows, title=name) for name, rows in rows_of.items()}
    minutes = (time.perf_counter() - start) / 60
    sources = splits.column(given.split, "source")
    malignant = np.array([model.config.label_groups.get(name, "benign") != "benign" for name in splits.labels])
    rows = []
    for fraction in given.label_fractions:
        chosen = choose_labelled(groups["train"], labels["train"], fraction)
        start = time.perf_counter()
        head = fit_head(
            seen["train"][chosen[used]],
            labels["train"][chosen],
            groups["train"][chosen],
            len(splits.labels),
            folds=given.folds,
            balanced=options.class_weights == "balanced",
            seed=given.seed,
        )
        seconds = time.perf_counter() - start
        logits = seen[given.split] @ head.weight.T + head.bias
        for source in sorted(set(sources)):
            here = sources == source
            found = numbers(labels[given.split][here], logits[here], groups[given.split][here], malignant, given)
            rows.append(
                [
                    *(
                        options.backbone,
                        options.image_size,
                        f"{100 * fraction:g} %: {head.about['images']:,} ({head.about['groups']:,})",
                        f"{head.about['l2']:g}{' (edge)' * head.about['at_the_edge']}",
                    ),
                    f"{source} ({here.sum():,})",
                    *(found[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc")),
                    *(f"{minutes:.1f}", f"{seconds:.0f}"),
                ]
            )
    return rows


def numbers(labels: Any, logits: Any, groups: Any, malignant: Any, given: Namespace) -> dict[str, str]:
    """Metrics with their intervals as text: bootstrap by lesion."""
    import numpy as np
    from scipy.special import softmax

    from trainers.metrics.discrimination import accuracy, auroc, balanced_accuracy, confusion_matrix, macro_f1
    from trainers.metrics.intervals import bootstrap_weights, can_resample, replicate
    from trainers.metrics.number import Number, bootstrapped

    classes, p_malignant = logits.shape[1], softmax(logits.astype(np.float64), axis=1)[:, malignant].sum(axis=1)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        confusion = confusion_matrix(labels, logits.argmax(axis=1), classes, weights)
        return {
            "accuracy": accuracy(confusion),
            "balanced_accuracy": balanced_accuracy(confusion),
            "macro_f1": macro_f1(confusion),
            "auroc": auroc(malignant[labels], p_malignant, weights),
        }

    point = statistic(np.ones((1, len(labels))))
    spread = None
    if can_resample(groups, labels):
        spread = replicate(statistic, bootstrap_weights(groups, labels, given.bootstrap_replicates, given.seed))
    found = {}
    for name, value in point.items():
        if np.isnan(value[0]):
            found[name] = "n/a"
            continue
        found[name] = Number.read(bootstrapped(float(value[0]), None if spread is None else spread[name])).text()
    return found


if __name__ == "__main__":
    run(main)
