"""Train the HAM10000 image-only baseline (``accelerate launch trainers/train_efficientnet.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("efficientnet", LesionArguments, "trainers.runner", model_class="EfficientNetForLesionClassification")
