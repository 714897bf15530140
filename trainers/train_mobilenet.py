"""Train Derm-X: MobileNetV2 with a linear head (``accelerate launch trainers/train_mobilenet.py --help``)."""

from hub_models import MobileNetForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="mobilenet", model_class=MobileNetForLesionClassification)
