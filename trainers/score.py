"""Ask a model about one image, or score a folder of any size; with labels, report how well it did.

``python -m trainers.score --model DIR_OR_REPO[@REVISION] --images FILE`` prints the answer. A folder (with all folders
in it) needs ``--out DIR``: DIR/answers.csv and .parquet hold one row per image, DIR/summary.json their counts. An image
that cannot be read becomes a row with its error. The same command goes on where it was killed: until it has finished,
its work stands in DIR.partial.

``--labels CSV`` (image,label and optionally lesion_id, age, sex, skin_tone, localization, dx_type, source, diagnosis)
adds what training writes: predictions_external.parquet, report.json, tables, figures and a README.md.
``--archive NAME`` takes the labels of a public archive instead.

A model that is not of this suite answers with its probabilities alone, so that it can be measured on the same images.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import (
    OneLineParser,
    UserError,
    check_model,
    chosen,
    count_of,
    run,
    seed_of,
    shown_path,
    warn,
)

if TYPE_CHECKING:
    from trainers.model_folder.source import Source

# Those of hub_models.infer_lesion and configuration_lesion, which --help and errors need not wait for.
INFERENCES = ("plain", "tta", "mc_dropout", "mc_dropout_full")
GROUPS = (
    "column of --labels or --metadata, such as lesion_id: DIR/groups.csv and .parquet hold an answer per group, the "
    "renormalised mean of the log-probabilities of its images (default: none)"
)
ARCHIVE = (
    "--images is a download of this archive (`build_archive --help` lists them): takes its labels, mapped to the "
    "model's classes, in place of --labels"
)
TONES = (
    "with --labels: subgroups by the individual typology angle of the image's border, an estimate that had no relation "
    "to the recorded skin type on PAD-UFES-20; unknown where no skin is visible (default: not)"
)
DECISIONS = ("most_probable", "balanced", "cost", "sensitivity")
BACKENDS = ("auto", "torch", "folded", "openvino", "onnx")
BACKEND = (
    "what runs the network on a CPU: torch; folded: torch with batch normalisation folded into the convolutions; or "
    "the graph that `lesion export` wrote beside the weights; auto: the graph where it is there and its runtime is "
    "installed, otherwise folded (default: %(default)s)"
)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR_OR_REPO[@REVISION]", help="a model's folder, or its id on the Hub")
    add("--images", required=True, type=Path, metavar="FILE_OR_DIR", help="one image, or a folder of images")
    add("--out", type=Path, metavar="DIR", help="folder to write; absent or empty (needed for a folder)")
    add("--labels", type=Path, metavar="CSV", help="the true classes: image,label[,lesion_id,...]; adds a report")
    add("--archive", metavar="NAME", help=ARCHIVE)
    add("--estimate_skin_tone", action="store_true", help=TONES)
    add("--keep_features", action="store_true", help="with --labels: keep pooled features, too (default: not)")
    add("--metadata", type=Path, metavar="CSV", help="image,age,sex,localization, for a model that reads them")
    add("--group_column", default="", metavar="NAME", help=GROUPS)
    add("--batch_size", type=count_of, default=32, help="images per forward pass (default: %(default)s)")
    add("--processes", type=count_of, default=1, help="processes that score side by side (default: %(default)s)")
    add(
        "--inference",
        choices=INFERENCES,
        default="plain",
        help="plain: one pass; tta: the mean over flips and quarter turns; mc_dropout: many passes of the head with "
        "dropout; mc_dropout_full: many passes of all (default: %(default)s)",
    )
    add("--backend", choices=BACKENDS, default="auto", help=BACKEND)
    add("--samples", type=count_of, default=30, help="passes of MC dropout (default: %(default)s)")
    add(
        "--prior",
        metavar="NAME=P,...",
        help="share of each class where the model is used, above 0, sum 1: re-weights the probabilities and withdraws "
        "band and set (default: as where it was calibrated)",
    )
    add(
        "--decision",
        choices=DECISIONS,
        help="the rule that names the class; another than the model's own withdraws band and set (default: the model's "
        "own)",
    )
    add(
        "--estimate_prior",
        action="store_true",
        help="estimate the share of each class among the images from the answers, into summary.json (default: not)",
    )
    add("--no_trust", action="store_true", help="answer without band, set and gate, also where none were fitted")
    add("--json", action="store_true", help="print the answer to one image as JSON (default: in words)")
    add(
        "--bootstrap_replicates",
        type=count_of,
        default=1000,
        help="resamples behind the intervals of a report (default: %(default)s)",
    )
    add("--seed", type=seed_of, default=0, help="of resamples and dropout, 0 or more (default: %(default)s)")
    add(
        "--trust_remote_code",
        action="store_true",
        help="run code that lies beside the weights; only for models whose authors you trust, and not needed for those "
        "of this suite (default: refuse such a model)",
    )
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded.

    Raises:
        UserError: names the option and what to do.
    """
    images: Path = given.images
    if not images.exists():
        raise UserError(f"--images {str(images)!r} does not exist: give an image file or a folder of images")
    check_model(given.model, "--model")
    for option in ("labels", "metadata"):
        table: Path | None = getattr(given, option)
        if table is not None and not table.exists():
            raise UserError(f"--{option} {str(table)!r} cannot be read (No such file or directory): give a CSV file")
    if given.archive is not None:
        from datasets_scripts.sources.archive_tables import entry_of

        entry_of(given.archive)
        if given.labels is not None:
            raise UserError("--archive and --labels were both given: give one, each states the classes")
    if given.out is None:
        for option in ("labels", "archive", "estimate_prior", "group_column"):
            if getattr(given, option):
                raise UserError(f"--{option} writes files: add --out DIR")
        if images.is_dir():
            raise UserError(f"--images {str(images)!r} is a folder: add --out DIR for the answers")
    elif given.json:
        raise UserError("--json prints the answer to one image: leave --out out, or read DIR/answers.parquet")
    if given.estimate_skin_tone and given.labels is None and given.archive is None:
        raise UserError("--estimate_skin_tone is for a report: add --labels CSV or --archive NAME")
    if given.prior is not None and given.estimate_prior:
        raise UserError(
            "--prior and --estimate_prior were both given: estimate first, then score again with that as --prior"
        )


def parse_prior(text: str) -> dict[str, float]:
    """``mel=0.1,nv=0.9`` -> class -> share.

    Raises:
        UserError: not of this form, or a class twice.
    """
    prior: dict[str, float] = {}
    for entry in text.split(","):
        name, equals, share = (part.strip() for part in entry.rpartition("="))
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not equals or not name or math.isnan(value):
            raise UserError(f"--prior has {entry.strip()!r}: give name=share for each class, e.g. mel=0.1,nv=0.9")
        if name in prior:
            raise UserError(f"--prior names {name!r} twice: give each class once")
        prior[name] = value
    return prior


def main() -> None:
    """Parse the command line, then answer one image or score a folder."""
    given = make_parser().parse_args()
    check(given)
    prior = None if given.prior is None else parse_prior(given.prior)
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.model_folder.source import parse_source

    source = parse_source(given.model, given.trust_remote_code)
    with tempfile.TemporaryDirectory() as folder:
        if given.archive is not None:
            from trainers.scoring.archive_labels import model_labels, write_labels

            given.labels = Path(folder) / f"{given.archive}.csv"
            warn(write_labels(given.archive, given.images, model_labels(source), given.labels))
        answer(given, source, prior)


def answer(given: argparse.Namespace, source: Source, prior: dict[str, float] | None) -> None:
    """Answer one image or score a folder."""
    from trainers.scoring.scorer import AnswerSettings, answer_one

    settings = chosen(
        AnswerSettings,
        given,
        trust=not given.no_trust,
        prior=prior,
        keep_logits=given.labels is not None,
        keep_features=given.labels is not None and given.keep_features,
    )
    if given.out is None:
        print(answer_one(source, settings, given.images, given.metadata, given.json))
        return
    from trainers.scoring.folder import Job, print_finished, score_folder

    job = chosen(Job, given, source=source, settings=settings)
    try:
        finished = score_folder(job)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {shown_path(job.partial)}") from None
    print_finished(finished, given.out)


if __name__ == "__main__":
    run(main)
