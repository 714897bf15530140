"""Train an autoencoder of lesion pictures (``accelerate launch trainers/train_autoencoder.py --help``)."""

from trainers.autoencoding.runner import main

if __name__ == "__main__":
    main(recipe="autoencoder")
