"""Out-of-distribution scores: one pure function per detector, of features and raw logits.

A score is the distance of an image from those the detector was fitted on; higher = more OOD. It has no unit, and is
meaningful only with the threshold fitted for it. The functions run on any device, in batches of any size, and need
nothing but tensors; what they know of the fitted images lies in ``settings`` (numbers) and ``buffers`` (matrices).

======================  ==============================================================  =============================
detector                high score for an image                                         buffers
======================  ==============================================================  =============================
``max_softmax``         no class is probable (Hendrycks & Gimpel, ICLR 2017)            none
``max_logit``           no logit is large (Hendrycks et al., ICML 2022)                 none
``energy``              all logits are small (Liu et al., NeurIPS 2020)                 none
``mahalanobis``         far from every class mean (Lee et al. 2018; Müller & Hein 2025) mean, projection, class_means
``nearest_neighbours``  far from its k-th neighbour (Sun et al., ICML 2022)             mean, projection, bank
``vim``                 outside the principal space, logits small (Wang et al., 2022)   mean, projection
``early_mahalanobis``   the Mahalanobis distance, of early statistics                   mean, projection, class_means
======================  ==============================================================  =============================

The last features separate the classes; they may no longer show that an image has no skin in it. The statistics of an
early layer, by :func:`channel_statistics`, still do; the best depth differs with the kind of OOD image
(Anthony & Kamnitsas, "On the use of Mahalanobis distance for out-of-distribution detection with neural networks for
medical imaging", UNSURE 2023).

The fits stand in the suite's ``trainers/trust/detectors.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

# Beyond it a squared distance might not be finite in float32.
ENORMOUS = 1e12

Score = Callable[[torch.Tensor, torch.Tensor, float, Mapping[str, Any], Mapping[str, torch.Tensor]], torch.Tensor]
Settings = Mapping[str, Any]
Buffers = Mapping[str, torch.Tensor]


class UnknownDetectorError(ValueError):
    """A detector that no function is there for."""


class DetectorBufferError(ValueError):
    """What a detector needs is absent, or was fitted on features of another width."""


def ood_score(
    name: str,
    features: torch.Tensor,
    raw_logits: torch.Tensor,
    temperature: float = 1.0,
    settings: Settings | None = None,
    buffers: Buffers | None = None,
    early: torch.Tensor | None = None,
) -> torch.Tensor:
    """Score a batch with one detector, in float32, also under autocast.

    Args:
        name: one of ``DETECTORS``.
        features: (N, D) pooled features; those of M members stand side by side.
        raw_logits: (N, C), or (N, M, C) of M members; before temperature.
        temperature: T > 0; only ``max_softmax`` uses it.
        settings: the numbers that were fitted.
        buffers: the matrices that were fitted, by name; on the device of ``features``.
        early: (N, E) statistics of an early layer by :func:`channel_statistics`, those of M members side by side; only
            the detectors in ``EARLY`` use them, and then not ``features``.

    Returns:
        (N,) float32, finite for finite input; higher = more OOD.

    Raises:
        UnknownDetectorError: there is no such detector.
        DetectorBufferError: a matrix or the early statistics are missing, or do not fit one another.
    """
    if name not in DETECTORS:
        raise UnknownDetectorError(
            f"no out-of-distribution detector is called {name!r}; known: {', '.join(DETECTORS)}."
        )
    held = {key: value.float() for key, value in (buffers or {}).items()}
    if name in EARLY:
        if early is None:
            raise DetectorBufferError(f"{name} needs the statistics of an early layer and was given none.")
        features = early
    _check(name, features, held)
    with torch.autocast(features.device.type, enabled=False):
        return DETECTORS[name](features.float(), raw_logits.float(), temperature, settings or {}, held)


def channel_statistics(activations: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of each channel over the image.

    Args:
        activations: (N, C, H, W) of a convolutional layer, or (N, L, C) tokens of a transformer's.

    Returns:
        (N, 2C) float32, the C means first; the deviation is that of the population.

    Raises:
        ValueError: another number of dimensions.
    """
    if activations.ndim not in (3, 4):
        raise ValueError(f"activations have the shape {tuple(activations.shape)}; give (N, C, H, W) or (N, L, C).")
    over = (2, 3) if activations.ndim == 4 else (1,)
    with torch.autocast(activations.device.type, enabled=False):
        deviation, mean = torch.std_mean(activations.float(), dim=over, correction=0)
    return torch.cat([mean, deviation], dim=1)


def max_softmax(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """1 - largest mean probability at temperature T: (N,) in [0, 1 - 1/C] (Hendrycks & Gimpel, ICLR 2017)."""
    probs = functional.softmax(_members(raw_logits) / temperature, dim=-1).mean(dim=1)
    return 1.0 - probs.amax(dim=-1)


def max_logit(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """Minus the largest raw logit, mean over members: (N,) (Hendrycks et al., ICML 2022)."""
    return -_members(raw_logits).amax(dim=-1).mean(dim=1)


def energy(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """Minus the log of the summed exponentials of the raw logits, mean over members: (N,) (Liu et al. 2020, eq. 4).

    Their temperature is 1, which they found best; ours is fitted for probabilities and plays no part here.
    """
    return -torch.logsumexp(_members(raw_logits), dim=-1).mean(dim=1)


def mahalanobis(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """Squared Mahalanobis distance to the nearest class mean, classes sharing one covariance: (N,) >= 0.

    Lee et al. 2018, equation 2, without their input noise and on the last features only, which are first scaled to
    length 1 (Müller & Hein, "Mahalanobis++", ICML 2025). ``projection`` (D, P) leads to principal components whitened
    by the covariance, so that the plain distance to ``class_means`` (K, P) is theirs. Setting ``unit_length`` 0 (absent
    = 1) leaves the length as it is.
    """
    unit = settings.get("unit_length", 1)
    seen = functional.normalize(features, dim=-1) if unit else features.clamp(-ENORMOUS, ENORMOUS)
    projected = (seen - buffers["mean"]) @ buffers["projection"]
    return (projected[:, None] - buffers["class_means"]).square().sum(dim=-1).amin(dim=-1)


def nearest_neighbours(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """Euclidean distance to the k-th nearest stored image: (N,) in [0, 2] (Sun et al. 2022, section 3).

    Features are scaled to length 1, then projected; the ``bank`` (B, P) holds the fitted images' likewise. Setting
    ``k`` >= 1 counts from the nearest.
    """
    projected = (functional.normalize(features, dim=-1) - buffers["mean"]) @ buffers["projection"]
    # Not by matrix products, which lose the digits of small distances.
    distances = torch.cdist(projected, buffers["bank"], compute_mode="donot_use_mm_for_euclid_dist")
    return distances.kthvalue(int(settings["k"]), dim=-1).values


def vim(
    features: torch.Tensor, raw_logits: torch.Tensor, temperature: float, settings: Settings, buffers: Buffers
) -> torch.Tensor:
    """Virtual logit less energy: (N,) (Wang et al., "ViM", CVPR 2022, equations 5 to 7).

    The virtual logit is ``alpha`` times the length of what the principal space, spanned by the orthonormal columns of
    ``projection`` (D, P), leaves of the centred features. Their score is the softmax probability of that logit beside
    the others, which rises with this difference. The energy of members is their mean.
    """
    centred = features - buffers["mean"]
    residual = centred - (centred @ buffers["projection"]) @ buffers["projection"].T
    virtual = float(settings["alpha"]) * torch.linalg.vector_norm(residual, dim=-1)
    return virtual + energy(features, raw_logits, temperature, settings, buffers)


DETECTORS: dict[str, Score] = {
    "max_softmax": max_softmax,
    "max_logit": max_logit,
    "energy": energy,
    "mahalanobis": mahalanobis,
    "nearest_neighbours": nearest_neighbours,
    "vim": vim,
    "early_mahalanobis": mahalanobis,
}
BUFFERS: dict[str, tuple[str, ...]] = {
    "max_softmax": (),
    "max_logit": (),
    "energy": (),
    "mahalanobis": ("mean", "projection", "class_means"),
    "nearest_neighbours": ("mean", "projection", "bank"),
    "vim": ("mean", "projection"),
    "early_mahalanobis": ("mean", "projection", "class_means"),
}
EARLY = ("early_mahalanobis",)


def _members(raw_logits: torch.Tensor) -> torch.Tensor:
    """(N, C) or (N, M, C) -> (N, M, C)."""
    return raw_logits[:, None] if raw_logits.ndim == 2 else raw_logits


def _check(name: str, features: torch.Tensor, buffers: Buffers) -> None:
    """The matrices of a detector are there and fit the features."""
    missing = [key for key in BUFFERS[name] if key not in buffers]
    if missing:
        raise DetectorBufferError(
            f"{name} needs {missing[0]!r} and was given {sorted(buffers)}; fit the trust of this model again."
        )
    if BUFFERS[name] and buffers["mean"].shape[0] != features.shape[1]:
        raise DetectorBufferError(
            f"{name} was fitted on {buffers['mean'].shape[0]} features and the model gives {features.shape[1]}; "
            "fit the trust of this model again."
        )
