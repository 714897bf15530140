"""Train Derm-X: MobileNetV2 with a linear head (``accelerate launch trainers/train_mobilenet.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("mobilenet", LesionArguments, "trainers.runner", model_class="MobileNetForLesionClassification")
