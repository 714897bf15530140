"""From a file's bytes to an upright 8-bit image: recognise it, check it, normalise it, take its thumbnail.

:data:`FORMATS` and :data:`IMAGE_SUFFIXES` are the one list of what is read as an image, for builders and trainers."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets_scripts.command import UserError, what_bytes_are
from datasets_scripts.rows import Row

MIN_SIDE = 16
# Decoding takes about 20 bytes a pixel.
MOST_PIXELS = 64_000_000
THUMB = 32
# Pillow's names. Formats that start other programs (EPS, WMF) are not among them.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF", "HEIF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2")
HEAD = 16  # bytes that tell a format
_BMP_HEADERS = [bytes([size]) for size in (12, 40, 52, 56, 64, 108, 124)]
_EXIF_ORIENTATION = 0x0112
_EXIF_PLACE = 0x8825
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


# The major brands of still images in ISO/IEC 23008-12 and of AVIF.
_HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
# Pillow's own bound is higher than MOST_PIXELS, and our error is clearer.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(UserError):
    """An image that cannot be used: truncated, empty, no image at all, or too small."""


@dataclass(frozen=True)
class Scan:
    """The result of decoding an image once.

    Attributes:
        size: (width, height) in pixels, upright.
        verbatim: the file's own bytes can be stored (8-bit RGB or grey JPEG/PNG without EXIF rotation).
        pixels_sha256: hash of size and decoded RGB pixels; equal for exact duplicates.
        thumb: (32, 32) uint8 grey, area-averaged.
        frames: images in the file, of which the first is taken.
        file_sha256: hash of the file's own bytes.
        place: whether its EXIF block states where the photo was taken.
    """

    size: tuple[int, int]
    verbatim: bool
    pixels_sha256: str
    thumb: np.ndarray
    frames: int = 1
    file_sha256: str = ""
    place: bool = False


def known_formats() -> list[str]:
    """Those of :data:`FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def is_image(name: str, head: bytes) -> bool:
    """Whether a file is an image, by the ending of its name, or else by its first :data:`HEAD` bytes.

    A damaged file with the ending of an image counts as an image: it is reported as damaged, not skipped.
    """
    return name.lower().endswith(IMAGE_SUFFIXES) or _format(head) in known_formats()


def _format(head: bytes) -> str | None:
    """Which of :data:`FORMATS` a file is by its first 16 bytes."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG2000"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "AVIF" if head[8:11] == b"avi" else "HEIF"
    # Two letters are a weak sign: the reserved zeros and the size of the next header tell a bitmap from a text.
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and head[14:15] in _BMP_HEADERS:
        return "BMP"
    return None


def open_image(data: bytes) -> Image.Image:
    """The image of a file's bytes, its pixels not yet decoded; the first frame of several.

    Raises:
        ImageError: too many pixels.
        OSError, SyntaxError, ValueError: not an image of :data:`FORMATS`, or damaged.
    """
    image = Image.open(io.BytesIO(data), formats=known_formats())
    check_pixels(image.size)
    return image


def check_pixels(size: tuple[int, int]) -> None:
    """Refuse an image by its header, before it takes memory.

    Raises:
        ImageError: more than :data:`MOST_PIXELS` pixels.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise ImageError(
            f"it has {size[0]}x{size[1]} pixels, at most {MOST_PIXELS // 10**6} million are read: make it smaller"
        )


def frames_of(image: Image.Image) -> int:
    """How many images an opened file holds. A camera's MPO is one: a preview or a gain map follows the photo."""
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except _BROKEN:
        return 1  # damaged behind the first


def frames_in(path: Path) -> int:
    """How many images a file holds, by its header; 1 where it cannot be read (the decoder reports that)."""
    try:
        with path.open("rb") as file:
            if _format(file.read(HEAD)) in (None, "JPEG", "BMP", "JPEG2000"):
                return 1
        with Image.open(path, formats=known_formats()) as image:
            return frames_of(image)
    except (*_BROKEN, MemoryError, RuntimeError):
        return 1


def orientation_of(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; ``None`` where the EXIF block cannot be decoded, which harms no pixel."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
        return value if value in _UPRIGHT else 1
    except _BROKEN:
        return None


def is_image_file(path: Path) -> bool:
    """As :func:`is_image`, for a file of the disk; its first bytes are read only where its name does not decide."""
    if is_image(path.name, b""):
        return True
    try:
        if not path.is_file():  # a named pipe or a device would block
            return False
        with path.open("rb") as file:
            return is_image(path.name, file.read(HEAD))
    except OSError:
        return False


def images_in(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The images in a folder and all folders in it, sorted; and the skipped files, counted by kind."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    passed_over: Counter[str] = Counter()
    images = []
    for path in files:
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
        if not hidden and is_image_file(path):
            images.append(path)
        else:
            passed_over["hidden" if hidden else kind_of(path.name)] += 1
    return images, passed_over


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """``3 (.txt 2, hidden 1)``: the counts by :func:`kind_of`, the most frequent first."""
    count = Counter(passed_over).most_common()
    listed = [f"{kind} {number}" for kind, number in count[:8]] + (["..."] if len(count) > 8 else [])
    return f"{sum(passed_over.values())} ({', '.join(listed)})"


def kind_of(name: str) -> str:
    """The kind under which a skipped file is counted: ``hidden``, its ending, or ``no ending``."""
    last = name.replace("\\", "/").rpartition("/")[2]
    if last.startswith("."):
        return "hidden"
    stem, dot, ending = last.rpartition(".")
    return f".{ending.lower()[:12]}" if dot and stem and ending.isprintable() else "no ending"


def _is_16_bit_png(data: bytes) -> bool:
    # Pillow opens a 16-bit RGB PNG as plain "RGB": only the IHDR chunk's bit depth tells.
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB: 16-bit scaled (``convert`` would clip it), transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # 32-bit modes do not state their range; values above 255 are read as 16-bit.
        if image.mode.startswith("I;16") or values.max() > 255:
            values = values / 257.0
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


def decode(data: bytes) -> tuple[Image.Image, bool]:
    """Decode to an upright 8-bit RGB image.

    Returns:
        The image, and whether ``data`` itself may be stored as it is.

    Raises:
        ImageError: ``data`` is empty, truncated, no image, or less than 16 pixels on a side.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = open_image(data)
        image.load()
        orientation = orientation_of(image)
        plain = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and "transparency" not in image.info
        turn = _UPRIGHT.get(orientation or 1)
        rgb = _to_rgb(image if turn is None else image.transpose(turn))
    except ImageError:
        raise
    except _BROKEN as error:
        why = what_bytes_are(data[:1024], len(data)) or f"it cannot be decoded ({_one_line(error)})"
        raise ImageError(why) from error
    if min(rgb.size) < MIN_SIDE:
        raise ImageError(f"it is {rgb.size[0]}x{rgb.size[1]} pixels, at least {MIN_SIDE}x{MIN_SIDE} are needed")
    single = image.format == "JPEG" or frames_of(image) == 1
    return rgb, plain and orientation == 1 and single and not _is_16_bit_png(data)


def normalised(data: bytes) -> bytes:
    """The image of ``data`` as upright 8-bit RGB PNG bytes (lossless).

    Raises:
        ImageError: as :func:`decode`.
    """
    buffer = io.BytesIO()
    decode(data)[0].save(buffer, format="PNG")
    return buffer.getvalue()


def _check_mask(data: bytes, size: tuple[int, int]) -> None:
    if not data:
        raise ImageError("its mask is empty (0 bytes)")
    try:
        with open_image(data) as mask:
            mask.load()
    except ImageError as error:
        raise ImageError(f"its mask: {error}") from error
    except _BROKEN as error:
        raise ImageError(f"its mask cannot be decoded ({_one_line(error)})") from error
    if mask.size != size:
        raise ImageError(f"its mask has {mask.size[0]}x{mask.size[1]} pixels, the image {size[0]}x{size[1]}")


def _one_line(error: BaseException) -> str:
    # Pillow names the buffer by its address, which is useless and differs from run to run.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", "", " ".join(str(error).split()))
    return text or type(error).__name__


def scan(row: Row) -> Scan | ImageError:
    """Decode a row's image, and check its mask, once; an error is returned, not raised, so that all can be counted."""
    try:
        data = row.read()
        rgb, verbatim = decode(data)
        if row.read_mask is not None:
            _check_mask(row.read_mask(), rgb.size)
    except _BROKEN as error:
        return ImageError(f"image {row.image_id}: {_one_line(error)}; download it again or remove it and its row")
    digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
    thumb = np.asarray(rgb.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))
    opened = open_image(data)
    frames = 1 if verbatim else frames_of(opened)
    return Scan(rgb.size, verbatim, digest, thumb, frames, hashlib.sha256(data).hexdigest(), _states_place(opened))


def _states_place(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(_EXIF_PLACE))
    except _BROKEN:
        return False


def file_warnings(scans: Iterable[Scan]) -> list[str]:
    """Sentences that count the files of several frames, and those stored with the place where they were taken."""
    scans = list(scans)
    several, places = sum(scan.frames > 1 for scan in scans), sum(scan.place and scan.verbatim for scan in scans)
    said = [f"{several} files hold several images (pages or frames): the first of each was taken."] if several else []
    if places:
        said.append(
            f"{places} files state the place where the photo was taken (EXIF): remove it before you publish them."
        )
    return said


def scan_all(rows: Sequence[Row]) -> list[Scan]:
    """Decode every image once, in threads (Pillow releases the interpreter's lock).

    Raises:
        ImageError: at least one image cannot be used; names the first and counts the rest.
    """
    workers = min(8, (os.cpu_count() or 1) + 1)
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            tqdm(
                pool.map(scan, rows),
                total=len(rows),
                desc="checking images",
                unit="image",
                mininterval=1.0,
                disable=None,
            )
        )
    faults = [r for r in results if isinstance(r, ImageError)]
    if faults:
        more = f" ({len(faults)} of {len(rows)} images are unusable)" if len(faults) > 1 else ""
        raise ImageError(f"{faults[0]}{more}")
    return [r for r in results if isinstance(r, Scan)]


def stretched_squares(read: Callable[[], bytes], ratio: tuple[int, int]) -> Callable[[], bytes]:
    """A reader of the same image that stretches a square to a ratio of width to height; other shapes stay as they are.

    The longer side stays as it is. The result is a JPEG of quality 95.
    """

    def stretched() -> bytes:
        data = read()
        image = Image.open(io.BytesIO(data), formats=known_formats())
        if image.width != image.height:
            return data
        scale = image.width / max(ratio)
        size = round(scale * ratio[0]), round(scale * ratio[1])
        buffer = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    return stretched
