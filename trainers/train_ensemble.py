"""Train the ISIC deep ensemble, member by member (``accelerate launch trainers/train_ensemble.py --help``)."""

from trainers.members import main

if __name__ == "__main__":
    main(recipe="ensemble")
