"""Train the ISIC 2017 classifier, ResNet-50 (``accelerate launch trainers/train_resnet.py --help``)."""

from hub_models import ResNetForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="resnet", model_class=ResNetForLesionClassification)
