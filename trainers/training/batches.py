"""Batches of augmented training images: geometry on stored uint8 images, colour and normalisation on the device.

A batch holds ``pixel_values`` (B, S, S, 3) uint8, cut, resized, flipped and turned, and ``colour`` (B, 3, 6), what the
device does with it in one step (:func:`to_pixel_values`). Every draw follows from the seed of its place in the epoch
alone (:class:`trainers.model_folder.data.EpochSampler`), so neither workers, processes nor a resume change a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from datasets_scripts.command import UserError
from trainers.model_folder.data import encoded_metadata
from trainers.training.arguments import AUGMENTATIONS
from trainers.training.image_cache import DecodedImages, ImageCache, cached_images

TRIES = 10  # random crops that are tried before the centre is taken, as in torchvision
GREY = np.array([0.299, 0.587, 0.114])
# Luminance and two colour differences (YIQ, FCC 1953): a turn of the last two changes the hue alone.
YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Recipe:
    """An augmentation.

    Attributes:
        area: the least share of the image's area that a crop has; 0 = no crop: the image as it is in use.
        ratio: crops have a ratio of width to height of 1 / ratio to ratio.
        flips: half of the images are flipped, in each direction.
        turns: half of the images are turned by 90 degrees.
        degrees: the largest rotation; what comes in at the corners is black.
        colour: largest relative change of brightness, contrast and saturation.
        hue: largest change of hue, a share of the full circle.
    """

    area: float = 0.0
    ratio: float = 1.25
    flips: bool = True
    turns: bool = False
    degrees: float = 0.0
    colour: float = 0.0
    hue: float = 0.0

    def short_side(self, size: int) -> int:
        """The shorter side of a stored image, such that the smallest crop is not enlarged; 0 = the size in use."""
        return math.ceil(size * math.sqrt(self.ratio / self.area)) if self.area else 0


RECIPES = {
    "none": Recipe(flips=False),
    "turns": Recipe(turns=True),
    "flips_rotation": Recipe(degrees=15.0),
    "crops_colour": Recipe(area=0.6, turns=True, colour=0.2, hue=0.02),
    "wide_crops": Recipe(area=0.3, turns=True, colour=0.3, hue=0.03),
}


def uniforms(seeds: Sequence[int], count: int) -> np.ndarray:
    """Numbers in [0, 1) that follow from each seed alone, (N, count): SplitMix64 (Steele et al. 2014, OOPSLA)."""
    with np.errstate(over="ignore"):
        step = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = np.asarray(seeds, dtype=np.uint64)[:, None] + step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def crop_boxes(draws: np.ndarray, sizes: np.ndarray, area: float, ratio: float) -> np.ndarray:
    """Random resized crops as torchvision draws them (the inception crop, Szegedy et al. 2015, section 6).

    Args:
        draws: (N, 2 * TRIES + 2) in [0, 1).
        sizes: (N, 2) width and height.
        area: the least share of the area; the largest is 1.
        ratio: width by height is between 1 / ratio and ratio, drawn on a logarithmic scale.

    Returns:
        (N, 4) int: left, top, width, height.
    """
    rows = np.arange(len(sizes))
    share = area + (1 - area) * draws[:, :TRIES]
    aspect = np.exp((2 * draws[:, TRIES : 2 * TRIES] - 1) * math.log(ratio))
    surface = sizes.prod(axis=1, keepdims=True) * share
    tried = np.stack([np.rint(np.sqrt(surface * aspect)), np.rint(np.sqrt(surface / aspect))], axis=-1)
    fits = ((tried >= 1) & (tried <= sizes[:, None])).all(axis=-1)
    cut = tried[rows, fits.argmax(axis=1)]
    # None fits: the largest in the middle that has an allowed ratio.
    middle = np.stack([np.minimum(sizes[:, 0], np.rint(sizes[:, 1] * ratio)), sizes[:, 1]], axis=1)
    middle[:, 1] = np.minimum(sizes[:, 1], np.rint(sizes[:, 0] * ratio))
    found = np.any(fits, axis=1, keepdims=True)
    cut = np.where(found, cut, middle)
    corner = np.where(found, np.floor(draws[:, -2:] * (sizes - cut + 1)), np.floor((sizes - cut) / 2))
    return np.concatenate([corner, cut], axis=1).astype(np.int64)


def colour_matrices(draws: np.ndarray, grey: np.ndarray, colour: float, hue: float) -> np.ndarray:
    """Brightness, contrast around the image's mean grey, saturation and hue, in this order, as one map of a pixel.

    Args:
        draws: (N, 4) in [0, 1).
        grey: (N,) mean grey of each image.
        colour: each of the first three factors is drawn from 1 - colour to 1 + colour.
        hue: the turn is drawn from -hue to hue, a share of the full circle.

    Returns:
        (N, 3, 4): a matrix of RGB, and what is added.
    """
    bright, contrast, saturation = (1 + colour * (2 * draws[:, :3] - 1)).T
    turn = 2 * math.pi * hue * (2 * draws[:, 3] - 1)
    spin = np.zeros((len(draws), 3, 3))
    spin[:, 0, 0] = 1
    spin[:, 1, 1] = spin[:, 2, 2] = np.cos(turn)
    spin[:, 1, 2], spin[:, 2, 1] = -np.sin(turn), np.sin(turn)
    turned = np.linalg.inv(YIQ) @ spin @ YIQ
    saturated = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * GREY
    # A shade of grey has no saturation and no hue: what contrast adds goes through both as it is.
    added = np.repeat(((1 - contrast) * bright * grey)[:, None, None], 3, axis=1)
    return np.concatenate([(bright * contrast)[:, None, None] * (turned @ saturated), added], axis=2)


def normalised(colours: np.ndarray, processor: Any) -> np.ndarray:
    """Colour maps of pixels in 0..255, (N, 3, 4), with the processor's rescaling and normalisation after them.

    Returns:
        (N, 3, 6) float32: matrix, what is added, and the normalised values of 0 and 255, between which the result lies.
    """
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (
        (np.array(processor.image_mean), np.array(processor.image_std))
        if processor.do_normalize
        else (np.zeros(3), np.ones(3))
    )
    maps = colours * (scale / std)[:, None]
    maps[..., 3] -= mean / std
    limits = np.broadcast_to(np.stack([-mean / std, (255 * scale - mean) / std], axis=1), (len(maps), 3, 2))
    return np.concatenate([maps, limits], axis=2).astype(np.float32)


def to_pixel_values(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The step on the device: colour, normalisation, and channels first; other inputs, and other batches, as they are.

    Args:
        inputs: ``pixel_values`` (B, S, S, 3) uint8 and ``colour`` (B, 3, 6), beside others.

    Returns:
        ``pixel_values`` (B, 3, S, S) float32, channels last in memory on a CPU, beside the others.
    """
    if "colour" not in inputs:
        return dict(inputs)
    rest = {name: value for name, value in inputs.items() if name != "colour"}
    images, colour = inputs["pixel_values"], inputs["colour"]
    step = coloured_on_cpu if images.device.type == "cpu" else coloured
    return {**rest, "pixel_values": step(images, colour)}


def coloured(images: Tensor, colour: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 and (B, 3, 6) -> (B, 3, S, S) float32, in one product of matrices."""
    matrix, added, low, high = colour.split([3, 1, 1, 1], dim=2)
    planes = images.permute(0, 3, 1, 2).flatten(2).float()
    with torch.autocast(images.device.type, enabled=False):
        values = torch.baddbmm(added, matrix, planes)
    return values.clamp_(low, high).unflatten(2, images.shape[1:3])


def coloured_on_cpu(images: Tensor, colour: Tensor) -> Tensor:
    """As :func:`coloured`, image by image: on a CPU some ten times faster, as each stays in the processor's cache."""
    library: Any = cv2  # its type hints know no scalars
    maps = colour.numpy()
    # numpy asks for large pages, torch does not.
    out = np.empty(images.shape, np.float32)
    for number, image in enumerate(images.numpy()):
        values, chart = out[number], maps[number]
        cv2.transform(image.astype(np.float32), np.ascontiguousarray(chart[:, :4]), dst=values)
        if np.count_nonzero(chart[:, :3]) > 3:  # without a change of colour no value is out of bounds
            low, high = ((*chart[:, column].tolist(), 0.0) for column in (4, 5))
            library.max(values, low, dst=values)
            library.min(values, high, dst=values)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


class AugmentedImages(Dataset):
    """The train split as augmented batches.

    Indexed by ``(index, seed)``, as ``EpochSampler`` yields; a ``DataLoader`` asks for a whole batch at once.

    Args:
        rows: the train split.
        processor: that of the training size; the images are square.
        augmentation: a name of ``RECIPES``.
        cache: where the decoded images are; see :func:`trainers.training.image_cache.cached_images`.

    Raises:
        UserError: an unusable cache folder or image, or metadata outside its vocabulary.
    """

    def __init__(self, rows: datasets.Dataset, processor: Any, augmentation: str, cache: str = "") -> None:
        self.recipe, self.processor, self.size = RECIPES[augmentation], processor, int(processor.size["height"])
        self.labels = np.array(rows["label"][:], dtype=np.int64)
        decoded = DecodedImages(rows, processor, self.recipe.short_side(self.size))
        self.images: DecodedImages | ImageCache = cached_images(decoded, cache)
        self.metadata = encoded_metadata(rows, processor) if "metadata" in processor.model_input_names else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        """One image: the entries of a batch of one."""
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """A batch; ``DataLoader`` calls it."""
        numbers = np.array([index for index, _ in keys])
        draws = uniforms([seed for _, seed in keys], 2 * TRIES + 2 + 4 + 4)  # crop, moves, colour
        stored = [self.images[int(index)] for index in numbers]
        pixels = self.cut(stored, draws[:, :-8])
        for image, draw in zip(pixels, draws[:, -8:-4], strict=True):
            self.move(image, draw)
        colours = np.broadcast_to(np.eye(3, 4), (len(numbers), 3, 4))
        if self.recipe.colour:
            grey = np.array([np.dot(GREY, cv2.mean(image)[:3]) for image in pixels])
            colours = colour_matrices(draws[:, -4:], grey, self.recipe.colour, self.recipe.hue)
        batch = {
            "labels": torch.from_numpy(self.labels[numbers]),
            "pixel_values": torch.from_numpy(pixels),
            "colour": torch.from_numpy(normalised(colours, self.processor)),
        }
        return batch if self.metadata is None else {**batch, "metadata": self.metadata[torch.from_numpy(numbers)]}

    def cut(self, stored: Sequence[np.ndarray], draws: np.ndarray) -> np.ndarray:
        """Random crops, resized: (N, S, S, 3) uint8; where nothing is cut off the images as they are."""
        if not self.recipe.area:
            return np.stack(stored)
        sizes = np.array([image.shape[1::-1] for image in stored])
        out = np.empty((len(stored), self.size, self.size, 3), np.uint8)
        for number, box in enumerate(crop_boxes(draws, sizes, self.recipe.area, self.recipe.ratio)):
            left, top, width, height = (int(value) for value in box)
            smaller = min(width, height) > self.size
            how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            image = stored[number][top : top + height, left : left + width]
            cv2.resize(image, (self.size, self.size), dst=out[number], interpolation=how)
        return out

    def move(self, image: np.ndarray, draws: np.ndarray) -> None:
        """Flip, turn and rotate one image (S, S, 3) in place.

        Args:
            image: uint8.
            draws: (4,) in [0, 1): flips, quarter turn, angle.
        """
        across, down, quarter, angle = draws
        if self.recipe.flips:
            code = {(True, False): 1, (False, True): 0, (True, True): -1}.get((across < 0.5, down < 0.5))
            if code is not None:
                cv2.flip(image, code, dst=image)
        if self.recipe.turns and quarter < 0.5:
            image[:] = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
        if self.recipe.degrees:
            centre = ((self.size - 1) / 2, (self.size - 1) / 2)
            matrix = cv2.getRotationMatrix2D(centre, self.recipe.degrees * (2 * float(angle) - 1), 1.0)
            image[:] = cv2.warpAffine(image, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR)


def augmentation(kind: str, size: int) -> Callable[[Image.Image], Image.Image]:
    """Augmentation of the pipeline ``pillow``: of one prepared RGB image; the result is size x size.

    ``flips_rotation``: resize, both flips, rotation up to 15 degrees (as the published EfficientNetV2-S baseline).
    ``crops_colour``: random resized crop (area 0.6-1), both flips, quarter turns, mild colour jitter: a lesion has no
    upright, and cameras differ.
    ``wide_crops``: the same with crops of area 0.3-1 and stronger jitter, for images of other cameras and distances.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in AUGMENTATIONS:
        raise UserError(f"augmentation {kind!r} is unknown: choose one of {', '.join(AUGMENTATIONS)}")
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    turns = v2.RandomChoice([v2.Identity(), v2.RandomRotation((90, 90))])
    steps: dict[str, list[Any]] = {
        "none": [v2.Resize((size, size))],
        "flips_rotation": [v2.Resize((size, size)), *flips, v2.RandomRotation(15)],
        "crops_colour": [
            v2.RandomResizedCrop((size, size), scale=(0.6, 1.0), ratio=(0.8, 1.25)),
            *flips,
            turns,
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        ],
        "wide_crops": [
            v2.RandomResizedCrop((size, size), scale=(0.3, 1.0), ratio=(0.8, 1.25)),
            *flips,
            turns,
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03),
        ],
    }
    return v2.Compose(steps[kind])
