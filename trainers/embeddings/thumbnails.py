"""Small images for pages, sheets and galleries."""

from __future__ import annotations

import io

from PIL import Image


def jpeg_thumbnail(image: Image.Image, longest: int, quality: int = 80) -> bytes:
    """An RGB image as a JPEG whose longest side is at most ``longest`` pixels; never enlarged, without metadata.

    Args:
        image: upright RGB.
        longest: pixels, at least 1.
        quality: JPEG quality, 1 to 95.
    """
    small = Image.new("RGB", image.size)
    small.paste(image)
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
