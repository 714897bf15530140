"""Train the HAM10000 image-only baseline (``accelerate launch trainers/train_efficientnet.py --help``)."""

from hub_models import EfficientNetForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="efficientnet", model_class=EfficientNetForLesionClassification)
