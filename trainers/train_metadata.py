"""Train the metadata-only MLP of HAM10000 (``accelerate launch trainers/train_metadata.py --help``)."""

from trainers.training.arguments import LesionArguments
from trainers.training.command_line import start

if __name__ == "__main__":
    start("metadata", LesionArguments, "trainers.training.train", model_class="MetadataForLesionClassification")
