"""What is known of the places that the images come from, and what it means for a model trained on them."""

from __future__ import annotations

# Keyed by the lower-case name that a dataset's ``source`` column and the report's ``sources`` carry.
SOURCE_LIMITS = {
    "ham10000": (
        "HAM10000 was collected at two places, a university clinic in Vienna (Austria) and a skin cancer practice in "
        "Queensland (Australia). Skin tone was not recorded, and both places see mostly people with light skin. More "
        "than half of the lesions were confirmed by histology; the others by follow-up, expert consensus or confocal "
        "microscopy. The images were chosen and cropped by hand: sharper, better centred "
        "and with far more disease in them than everyday practice has."
    ),
    "dermnet": (
        "The DermNet images are close-up photographs and not dermoscopy, and one class comes from them alone. A "
        "model can tell that class by the kind of image. Evaluate it by the results without that source."
    ),
    "phantom": (
        "The phantom images are drawn by a program. They contain no skin and no disease. Nothing measured on them "
        "says anything about a person."
    ),
}
DRAWN = "phantom"
# What the suite's builders name: they look for near-duplicates, and give them one ``group_id``.
BUILT = ("class folders", "dermnet", "ham10000", "isic 2017 challenge", "isic archive", DRAWN)


def known_limits(sources: list[str]) -> list[str]:
    """One paragraph for each of the named sources that we know something about."""
    return [SOURCE_LIMITS[name.lower()] for name in sources if name.lower() in SOURCE_LIMITS]


def any_drawn(sources: list[str]) -> bool:
    """Whether some of the images were drawn by a program."""
    return any(name.lower() == DRAWN for name in sources)


def all_drawn(sources: list[str]) -> bool:
    """Whether every image was drawn by a program."""
    return bool(sources) and all(name.lower() == DRAWN for name in sources)
