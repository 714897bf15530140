"""What recalibration on n labelled local lesions gains: repeated draws of n lesions, evaluated on all others.

``python -m trainers.measure_recalibration MODEL --predictions FILE --output_dir OUT`` reads predictions of local
lesions by this model (``predictions_external.parquet`` of ``lesion score --labels``, or those of a finished folder), so
that no image is read again. Beside it: how often ``check_shift`` finds a shift in n unlabelled lesions, and weighted
conformal sets, which need no label. It writes OUT/README.md and OUT/recalibration.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, count_of, run, seed_of, shown_path
from trainers.trust.options import add_options

REFITS = ("auto", "keep", "scalar", "bias_corrected")
NO_OPTION = ("temperature", "detector", "subgroup_column", "inference", "shifted_images", "seed")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.measure_recalibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="DIR", help="folder of a finished model with fitted trust and stored predictions")
    add("--predictions", nargs="+", type=Path, required=True, metavar="FILE", help="predictions of local lesions")
    add("--source", default="", help="take the local lesions of this source alone (default: all)")
    add("--first_source", default="", help="first fit trust on the calibration lesions of this source (default: all)")
    add("--calibration", type=Path, metavar="FILE", help="calibration predictions (default: the model's, stored)")
    add("--sizes", nargs="+", type=count_of, default=[50, 100, 200], help="local lesions (default: 50 100 200)")
    add("--draws", type=count_of, default=20, help="draws of each size (default: %(default)s)")
    add("--temperature", choices=REFITS, default="auto", help="as of lesion recalibrate (default: %(default)s)")
    add_options(parser, NO_OPTION, of_model=True)
    add("--seed", type=seed_of, default=0, help="of the draws (default: %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    return parser


def main() -> None:
    """Parse the command line, measure, print the table."""
    given = make_parser().parse_args()
    check_model(given.model, "the model")
    for path in [*given.predictions, *([given.calibration] if given.calibration else [])]:
        if not path.is_file():
            raise UserError(f"{str(path)!r} is no file: give predictions of this suite")
    # What follows imports torch, which --help and the errors above need not wait for.
    from datasets_scripts.command import read_json
    from datasets_scripts.output import written_whole
    from model_cards.manifest import write_text
    from trainers.evaluation.recalibration import only_source, study, study_lines
    from trainers.metrics.predictions import joined, read_predictions
    from trainers.model_folder.output import check_empty
    from trainers.model_folder.provenance import origin
    from trainers.model_folder.recalibrate import fitted_trust, options_of
    from trainers.trust.local import refit

    check_empty(given.output_dir)
    trust = fitted_trust(argparse.Namespace(trust=read_json(Path(given.model) / "config.json")["trust"]), given.model)
    options = options_of(trust, vars(given) | {"temperature": None, "seed": None})
    split = trust["temperature"].get("split", "calibration")
    calibration = read_predictions(given.calibration or Path(given.model) / f"predictions_{split}.parquet")
    local = joined([read_predictions(path) for path in given.predictions])
    if given.first_source:
        calibration = only_source(calibration, given.first_source)
        trust = refit(calibration, trust, options, date="").config
    local = only_source(local, given.source) if given.source else local
    how = {"temperature": given.temperature, "seed": given.seed}
    found = study(local, calibration, trust, options, given.sizes, given.draws, **how)
    lines = [
        f"# Recalibration of {Path(given.model).resolve().name}",
        "",
        f"{len(set(local.group_id.tolist())):,} local lesions ({len(local):,} images); mean ± standard deviation of "
        f"{given.draws} draws, measured on the lesions that were not drawn.",
        "",
        *study_lines(found),
    ]
    with written_whole(given.output_dir) as out:
        write_text(out / "README.md", "\n".join(lines) + "\n")
        write_text(
            out / "recalibration.json", json.dumps({**found, "provenance": origin()}, indent=1, allow_nan=False) + "\n"
        )
    print("\n".join(lines))
    print(f"finished: {shown_path(given.output_dir)} (README.md, recalibration.json)")


if __name__ == "__main__":
    run(main)
