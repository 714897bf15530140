"""Train the 12-class ViT-L/32-384 (``accelerate launch trainers/train_vit.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("vit", LesionArguments, "trainers.runner", model_class="ViTForLesionClassification")
