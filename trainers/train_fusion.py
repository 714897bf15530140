"""Train the late fusion of image and metadata on HAM10000 (``accelerate launch trainers/train_fusion.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("fusion", LesionArguments, "trainers.runner", model_class="FusionForLesionClassification")
