"""Train the metadata-only MLP of HAM10000 (``accelerate launch trainers/train_metadata.py --help``)."""

from hub_models import MetadataForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="metadata", model_class=MetadataForLesionClassification)
