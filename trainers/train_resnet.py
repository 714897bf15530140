"""Train the ISIC 2017 classifier, ResNet-50 (``accelerate launch trainers/train_resnet.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("resnet", LesionArguments, "trainers.training.train", model_class="ResNetForLesionClassification")
