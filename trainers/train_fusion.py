"""Train the late fusion of image and metadata on HAM10000 (``accelerate launch trainers/train_fusion.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("fusion", LesionArguments, "trainers.training.train", model_class="FusionForLesionClassification")
