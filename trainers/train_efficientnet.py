"""Train the HAM10000 image-only baseline (``accelerate launch trainers/train_efficientnet.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("efficientnet", LesionArguments, "trainers.training.train", model_class="EfficientNetForLesionClassification")
