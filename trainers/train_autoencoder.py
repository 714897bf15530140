"""Train an autoencoder of lesion images (``accelerate launch trainers/train_autoencoder.py --help``)."""

from trainers.autoencoding.options import AutoencoderArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("autoencoder", AutoencoderArguments, "trainers.autoencoding.train")
