"""What is known of the images that a backbone was pretrained on: whether the test images may be among them."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "none: the backbone started from random weights"
UNKNOWN = "unknown: nothing is stated here about the images that the backbone was pretrained on"
IMAGENET = "ImageNet, photographs of objects and animals; no archive of skin images is a part of it"
# Beginning of a Hub id -> what its authors state.
KNOWN = {
    "facebook/dinov2": "LVD-142M, images of the web chosen by similarity to public collections; the list is not "
    "published, so that it is unknown whether test images are among them",
    "facebook/dinov3": "LVD-1689M, images of the web; the list is not published, so that it is unknown whether test "
    "images are among them",
    "google/medsiglip": "medical images with texts, dermatology among them, beside images of the web; the list is not "
    "published, so that test images of public archives may be among them",
    "google/siglip": "WebLI, images and texts of the web; the list is not published, so that it is unknown whether "
    "test images are among them",
    "openai/clip": "400 million images and texts of the web; the list is not published, so that it is unknown whether "
    "test images are among them",
    "redlessone/DermLIP": "Derm1M, dermatological images and texts of public sources; test images of public archives "
    "may be among them",
    "suinleelab/monet": "105,550 dermatological images with texts of medical articles and textbooks; it is unknown "
    "whether test images are among them",
}
# Parts of the names of timm's weights.
OF_TIMM = {"in1k": IMAGENET, "in12k": IMAGENET, "in21k": IMAGENET, "in22k": IMAGENET}


def pretraining(weights: str, base: str | Sequence[str] | None, initialised_from: str | None = None) -> str:
    """One phrase on the pre-training images; "unknown" where nothing is known.

    Args:
        weights: where the backbone started: ``none``, or what was loaded.
        base: the Hub ids that its weights came from, as far as they are known.
        initialised_from: of the configuration. Members of other runs started there, also where ``weights`` is ``none``.
    """
    if weights == "none" and initialised_from in (None, "random"):
        return NONE
    ids = [base] if isinstance(base, str) else list(base or [])
    found = []
    for name in ids:
        known = next((text for start, text in KNOWN.items() if name.lower().startswith(start.lower())), None)
        tag = name.rpartition(".")[2].split("_") if name.startswith("timm/") else []
        parts = [text for part, text in OF_TIMM.items() if part in tag]
        only = tag and all(part in OF_TIMM or part == "ft" for part in tag if part.startswith(("in", "ft", "laion")))
        found.append(known or (parts[0] if parts and only else UNKNOWN))
    return "; ".join(dict.fromkeys(found)) or UNKNOWN
