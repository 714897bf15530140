"""Train the 12-class ViT-L/32-384 (``accelerate launch trainers/train_vit.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("vit", LesionArguments, "trainers.training.train", model_class="ViTForLesionClassification")
