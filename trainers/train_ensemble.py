"""Train the ISIC deep ensemble, member by member (``accelerate launch trainers/train_ensemble.py --help``)."""

from trainers.arguments import EnsembleArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("ensemble", EnsembleArguments, "trainers.members")
