"""Train the metadata-only MLP of HAM10000 (``accelerate launch trainers/train_metadata.py --help``)."""

from trainers.arguments import LesionArguments
from trainers.command_line import start

if __name__ == "__main__":
    start("metadata", LesionArguments, "trainers.runner", model_class="MetadataForLesionClassification")
