"""Train the late fusion of image and metadata on HAM10000 (``accelerate launch trainers/train_fusion.py --help``)."""

from hub_models import FusionForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="fusion", model_class=FusionForLesionClassification)
