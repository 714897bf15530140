"""The suite's Trainer with an image as its target: losses on pixels, PSNR and SSIM after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from hub_models import AutoencoderInputError
from trainers.autoencoding.losses import psnr, ssim
from trainers.training.trainer import LesionTrainer

SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}


class AutoencoderTrainer(LesionTrainer):
    """A ``LesionTrainer`` whose loss compares images; sampler, averaged weights, resume and clock are its own.

    Args:
        loss: ``loss(reconstructions (N, 3, S, S), images (N, 3, S, S)) -> scalar``, both in [0, 1].
        noise_std: deviation of the noise added to what the encoder sees in training, of pixels in [0, 1]; 0 = none.
    """

    def __init__(self, *args: Any, noise_std: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise_std = noise_std

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The recipe's loss; returns with it the reconstructions and the clean images, (N, 3, S, S) in [0, 1]."""
        clean = inputs["pixel_values"]
        network: Any = self.accelerator.unwrap_model(model)
        seen = with_noise(clean, self.noise_std, network.config.image_std) if model.training else clean
        try:
            outputs = model(pixel_values=seen)
        except AutoencoderInputError as error:
            raise self.diverged(str(error).rstrip(".")) from error
        images, target = network.to_images(outputs.reconstruction), network.to_images(clean)
        loss = self.loss(images, target)
        return (loss, (images, target)) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, scores (N, K) of the batch's images, labels (N,): the images themselves are not gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, (images, target) = self.compute_loss(model, inputs, return_outputs=True)
            scores = torch.stack([score(images, target) for score in SCORES.values()], dim=1)
        return loss.detach(), scores, inputs["labels"]


def with_noise(pixel_values: Tensor, noise_std: float, image_std: list[float]) -> Tensor:
    """Images as the processor returns them, with Gaussian noise whose deviation is of pixels in [0, 1].

    Args:
        pixel_values: (N, 3, H, W).
        noise_std: at least 0; 0 gives the images back.
        image_std: what the processor divided each colour by.
    """
    if not noise_std:
        return pixel_values
    scale = noise_std / pixel_values.new_tensor(image_std)
    return pixel_values + torch.randn_like(pixel_values) * scale[:, None, None]


def reconstruction_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The Trainer's ``compute_metrics``: mean PSNR (dB) and SSIM of the scores (N, K) that ``prediction_step`` gave."""
    scores = np.asarray(prediction.predictions, dtype=np.float64)
    return {name: float(scores[:, column].mean()) for column, name in enumerate(SCORES)}
