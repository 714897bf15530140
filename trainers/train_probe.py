"""Fit a linear head on the features of a frozen backbone: ``python -m trainers.train_probe --backbone NAME ...``.

The features of every image are computed once and kept in the cache folder of `datasets`; the head is a multinomial
logistic regression, its L2 penalty chosen by cross-validation within the train split, no lesion in two folds. With
--zero_shot PROMPTS.yaml the head is made of texts, and no label is used. The result is a finished folder like that of
any training: predictions, trust, report, card.
"""

from __future__ import annotations

from datasets_scripts.command import run
from trainers.probing.options import parse


def main() -> None:
    """Parse the command line and fit."""
    options, settings = parse("python -m trainers.train_probe", __doc__)
    from trainers.probing.run import probe

    probe(options, settings)


if __name__ == "__main__":
    run(main)
