"""Train a classifier on any backbone (``accelerate launch trainers/train_image_classifier.py --help``)."""

from trainers.training.command_line import start
from trainers.training.image_arguments import ImageArguments

if __name__ == "__main__":
    more = {"model_class": "ImageForLesionClassification", "options": ImageArguments}
    start("image", ImageArguments, "trainers.training.train", **more)
