"""Train the ISIC 2017 classifier, ResNet-50 (``accelerate launch trainers/train_resnet.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("resnet", LesionArguments, "trainers.runner", model_class="ResNetForLesionClassification")
