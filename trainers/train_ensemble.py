"""Train the ISIC deep ensemble, member by member (``accelerate launch trainers/train_ensemble.py --help``)."""

from trainers.training.arguments import EnsembleArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("ensemble", EnsembleArguments, "trainers.training.ensemble")
