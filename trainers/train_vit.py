"""Train the 12-class ViT-L/32-384 (``accelerate launch trainers/train_vit.py --help``)."""

from hub_models import ViTForLesionClassification
from trainers.runner import main

if __name__ == "__main__":
    main(recipe="vit", model_class=ViTForLesionClassification)
