"""Train Derm-X: MobileNetV2 with a linear head (``accelerate launch trainers/train_mobilenet.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("mobilenet", LesionArguments, "trainers.training.train", model_class="MobileNetForLesionClassification")
