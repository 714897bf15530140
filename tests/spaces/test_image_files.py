"""Files of unknown senders: recognised by content, bounded, reduced to pixels; hostile archives."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hub_models.preprocess_lesion import to_rgb

SECRET = b"taken at 48.2082 N 16.3738 E"


def encoded(kind: str, size: tuple[int, int] = (48, 40), mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_five_kinds_are_read_by_content(parts: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "misnamed.txt"
    path.write_bytes(encoded(kind))
    image = parts.image_files.read_image(path)
    with Image.open(path) as wanted:
        assert np.array_equal(np.asarray(image), np.asarray(wanted.convert("RGB")))
    assert (image.mode, image.size, image.info) == ("RGB", (48, 40), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no image", "no image that is known"),
        (b"\x89PNG\r\n\x1a\n", "may be damaged"),
        (encoded("PNG")[:900], "may be damaged"),
        (encoded("GIF", mode="P"), "it is a GIF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "SVG or XML"),
        (b'\xef\xbb\xbf <?xml version="1.0"?><svg/>', "SVG or XML"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "a web page"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04 and more", "a zip archive"),
        (b"BM is how this sentence begins, it is no bitmap", "no image that is known"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "may be damaged"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"MZ\x90\0", "a program"),
        (png_header(100_000, 100_000), "At most 40 million pixels"),
        (png_header(7_000, 7_000), "7000 x 7000 pixels. At most 40 million"),
        (png_header(20_000, 100), "16000 on a side"),
        (encoded("PNG", size=(20, 500)), "at least 32 on each side"),
        (encoded("TIFF", mode="F"), "measurements rather than an image (mode F)"),
        (encoded("PNG") + b"x" * 23_450_000, "has 23.5 MB; at most 20 MB"),
    ],
    ids=range(20),
)  # fmt: skip
def test_everything_else_is_refused_in_words(parts: Any, content: bytes, message: str) -> None:
    with pytest.raises(parts.image_files.ImageUnusableError, match=re.escape(message)):
        parts.image_files.read_image(content)


def test_pages_and_animations_are_refused(parts: Any) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for kind in ("WEBP", "TIFF", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(parts.image_files.ImageUnusableError, match="several images"):
            parts.image_files.read_image(buffer.getvalue())


def test_a_cameras_mpo_is_its_first_image(parts: Any) -> None:
    """Phones write JPEGs with a second one (a preview, a gain map) behind the image."""
    frames = [Image.new("RGB", (40, 48), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(buffer.getvalue())) as both:
        assert (both.format, both.n_frames) == ("MPO", 2)
    image = parts.image_files.read_image(buffer.getvalue())
    assert image.size == (40, 48)
    assert np.asarray(image).reshape(-1, 3).mean(0) == pytest.approx([254, 0, 0], abs=1)


def test_the_error_of_a_large_file_states_its_size(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded("PNG") + b"x" * 31_000_000)
    with pytest.raises(parts.image_files.ImageUnusableError, match=r"has 31\.1 MB; at most 20 MB"):
        parts.image_files.read_image(path)


def test_what_the_page_wrote_itself_is_no_upload_that_is_too_large(parts: Any, tmp_path: Path) -> None:
    """Noise has 21 MB as the PNG that is kept, and an image gets more than one request."""
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))
    service = parts.service.Service(parts.model_loading.ModelStore([]), files)
    noise = np.random.default_rng(0).integers(0, 255, (2600, 2700, 3), dtype=np.uint8)
    upload, copied = files.folder / "phone.jpg", files.folder / "copied.jpg"
    Image.fromarray(noise).save(upload, "JPEG", quality=80)
    with service.opened(upload) as first:
        assert upload.stat().st_size < parts.image_files.LARGEST_FILE
    assert upload.stat().st_size > parts.image_files.LARGEST_FILE
    copied.write_bytes(upload.read_bytes())  # Gradio copies a file whose content is new
    for path in (upload, copied):
        with service.opened(path) as again:
            assert again.tobytes() == first.tobytes()
    entry = parts.archives.list_entries([upload])[0]
    assert service.open_entry(entry).size == (2700, 2600)
    # A visitor's own file of that size is refused as before, and deleted.
    upload.write_bytes(upload.read_bytes() + b"x")
    with pytest.raises(parts.image_files.ImageUnusableError, match="at most 20 MB"), service.opened(upload):
        pass
    assert not upload.exists()
    files.remove()


def test_only_pixels_survive(parts: Any, tmp_path: Path) -> None:
    """EXIF (but for the rotation), comments, text, and a whole page behind the last byte are gone."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET.decode(), 6
    info = PngInfo()
    info.add_text("Comment", SECRET.decode())
    for content in (
        encoded("JPEG", exif=exif, comment=SECRET) + b"<html><script>alert(1)</script>" + SECRET,
        encoded("PNG", exif=exif, pnginfo=info) + b"PK\x03\x04" + SECRET,
        encoded("WEBP", exif=exif, lossless=True),
    ):
        assert SECRET in content
        path = tmp_path / "upload.jpg"
        path.write_bytes(content)
        image = parts.image_files.read_image(path)
        assert image.size == (40, 48), "turned upright"
        with Image.open(io.BytesIO(content)) as wanted:
            assert np.array_equal(np.asarray(image), np.asarray(to_rgb(wanted)))
        digest = parts.image_files.keep_only_pixels(path, image)
        kept = path.read_bytes()
        assert digest == hashlib.sha256(kept).hexdigest()
        assert SECRET not in kept
        assert kept.endswith(b"IEND\xaeB`\x82")
        with Image.open(path) as again:
            assert not again.getexif()
            assert np.array_equal(np.asarray(again), np.asarray(image))
        assert [other.name for other in tmp_path.iterdir()] == ["upload.jpg"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_gives_the_processors_pixels(parts: Any, mode: str) -> None:
    if mode == "I;16":
        values = np.random.default_rng(1).integers(0, 65535, (40, 44), dtype=np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        content = buffer.getvalue()
    else:
        content = encoded("TIFF" if mode == "CMYK" else "PNG", mode=mode)
    with Image.open(io.BytesIO(content)) as image:
        wanted = to_rgb(image)
    assert np.array_equal(np.asarray(parts.image_files.read_image(content)), np.asarray(wanted))


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_archives_are_read_where_they_lie(parts: Any, tmp_path: Path) -> None:
    photo = encoded("PNG")
    inner = {
        "../../etc/evil.png": photo, "/root/a.png": photo, "c:\\x\\b.png": photo, "sub/.hidden.png": photo,
        "__MACOSX/a.png": b"x", "text.txt": b"no image",
    }  # fmt: skip
    entries = parts.archives.list_entries([zipped(tmp_path / "some.zip", inner)])
    assert sorted(entry.name for entry in entries) == ["etc/evil.png", "root/a.png", "text.txt", "x/b.png"]
    assert [entry.read() == photo for entry in entries].count(True) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["some.zip"], "nothing was unpacked"


def test_files_of_one_name_are_distinguished(parts: Any, tmp_path: Path) -> None:
    """By their folders in the archive, and by the archive where there are several; what cannot be printed is not."""
    inner = dict.fromkeys(("left/b.png", "right/b.png", "a\nb/\u202ec.png", f"{'x' * 200}/d/e.png"), b"x")
    one = zipped(tmp_path / "one.zip", inner)
    names = [entry.name for entry in parts.archives.list_entries([one])]
    long = parts.archives.LONGEST_PATH
    assert names == ["a?b/?c.png", "left/b.png", "right/b.png", "..." + ("x" * 200 + "/d/e.png")[3 - long :]]
    assert len(names[-1]) == long
    two = zipped(tmp_path / "two.zip", {"left/b.png": b"x"})
    loose = tmp_path / "folder" / "b.png"
    names = [entry.name for entry in parts.archives.list_entries([one, loose, two])]
    assert names[1] == "one.zip/left/b.png"
    assert names[-2:] == ["b.png", "two.zip/left/b.png"]


def damaged_archives() -> dict[str, bytes]:
    """Archives of two files, the first of which is damaged, locked, or packed in a way that nobody knows."""
    found = {}
    noise = np.random.default_rng(0).integers(0, 255, 3000, dtype=np.uint8).tobytes()
    for name, kind in (("lzma", zipfile.ZIP_LZMA), ("bzip2", zipfile.ZIP_BZIP2), ("deflate", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            archive.writestr("a.png", noise)
            archive.writestr("b.png", encoded("PNG"))
        whole = buffer.getvalue()
        found[name] = whole[:60] + b"\xff" * 40 + whole[100:]
        entry = whole.index(b"PK\1\2")  # the first file in the list at the end
        found[f"{name} header"] = whole[:35] + b"\xff" * 9 + whole[44:]
        found[f"{name} name"] = whole[:6] + b"\0\x08" + whole[8:30] + b"\xff\xfe" + whole[32:]
        found[f"{name} place"] = whole[: entry + 42] + b"\xff\xff\xff\x7f" + whole[entry + 46 :]
        found[f"{name} method"] = whole[: entry + 10] + b"\x63\0" + whole[entry + 12 :]
        locked = bytearray(whole)
        locked[6] |= 1
        locked[entry + 8] |= 1
        found[f"{name} locked"] = bytes(locked)
    return found


@pytest.mark.parametrize("name", list(damaged_archives()))
def test_a_damaged_file_in_an_archive_is_a_row(parts: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(damaged_archives()[name])
    first, second = parts.archives.list_entries([path])
    with pytest.raises(parts.image_files.ImageUnusableError, match=r"cannot be unpacked: (it|the archive) is"):
        first.read()
    assert parts.image_files.read_image(second.read()).size == (48, 40)


def test_links_in_archives_are_left_out(parts: Any, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.png", encoded("PNG"))
    entries = parts.archives.list_entries([tmp_path / "links.zip"])
    assert [entry.name for entry in entries] == ["a.png"]


def test_archives_that_try_things_are_refused(parts: Any, tmp_path: Path) -> None:
    refused = parts.archives.BatchRefusedError
    bomb = zipped(tmp_path / "bomb.zip", {"a.png": b"\0" * 9_000_000}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 20_000
    with pytest.raises(refused, match=r"bomb\.zip is packed far too tightly"):
        parts.archives.list_entries([bomb])
    with pytest.raises(refused, match="more than 200 files"):
        parts.archives.list_entries([zipped(tmp_path / "many.zip", {f"{n}.png": b"x" for n in range(201)})])
    with pytest.raises(refused, match="2001 entries; at most 2000"):
        parts.archives.list_entries([zipped(tmp_path / "folders.zip", {f"{n}/": b"" for n in range(2001)})])
    with pytest.raises(refused, match="no image in this upload"):
        parts.archives.list_entries([zipped(tmp_path / "empty.zip", {})])
    broken = tmp_path / "broken.zip"
    broken.write_bytes(zipped(tmp_path / "whole.zip", {"a.png": encoded("PNG")}).read_bytes()[:200])
    with pytest.raises(refused, match=r"broken\.zip is no zip archive that can be read"):
        parts.archives.list_entries([broken])


def test_a_lying_archive_gives_no_more_than_an_image_may_have(parts: Any, tmp_path: Path) -> None:
    """The sizes in an archive are the sender's word: what counts is what comes out."""
    noise = np.random.default_rng(0).integers(0, 255, 24_000_000, dtype=np.uint8).tobytes()
    entry = parts.archives.list_entries([zipped(tmp_path / "large.zip", {"a.png": noise})])[0]
    with pytest.raises(parts.image_files.ImageUnusableError, match=r"has 24\.0 MB; at most 20 MB"):
        entry.read()
    entry.member.file_size = 1000
    with pytest.raises(parts.image_files.ImageUnusableError, match="the archive is damaged here"):
        entry.read()


def test_the_folder_of_uploads_is_private_and_emptied(parts: Any, tmp_path: Path) -> None:
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))
    assert files.folder.stat().st_mode & 0o777 == 0o700
    inside, outside = files.folder / "a" / "x.png", tmp_path / "y.png"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(b"x")
    link = files.folder / "link.png"
    link.symlink_to(outside)
    assert files.holds(inside)
    assert not any(map(files.holds, (outside, link, files.folder / "gone.png", files.folder / ".." / "y.png")))
    files.delete(outside)
    assert outside.exists()
    assert files.sweep(older_than_s=1000) == 0
    assert files.sweep(older_than_s=-1) == 2
    assert list(files.folder.iterdir()) == []
    dead = tmp_path / f"{parts.temporary_files.PREFIX}999999999-x"
    dead.mkdir()
    parts.temporary_files.TemporaryFiles(str(tmp_path))
    assert not dead.exists(), "what a killed process left"
    reborn = tmp_path / f"{parts.temporary_files.PREFIX}{os.getpid()}-x"
    reborn.mkdir()
    parts.temporary_files.TemporaryFiles(str(tmp_path))
    assert not reborn.exists(), "in a container every start has the same number"
    assert files.folder.exists(), "what a living one uses"
    files.remove()
    assert not files.folder.exists()


def test_room_is_made_of_the_oldest_uploads(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.temporary_files, "MOST_KEPT", 100)
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))
    for name, age in (("oldest", 900), ("old", 800), ("young", 5)):
        (files.folder / name).write_bytes(b"x" * 30)
        os.utime(files.folder / name, (time.time() - age,) * 2)
    assert files.make_room(10)
    assert len(list(files.folder.iterdir())) == 3
    assert files.make_room(30)
    assert {path.name for path in files.folder.iterdir()} == {"old", "young"}
    assert not files.make_room(80), "what was just uploaded is not deleted for others"
    assert [path.name for path in files.folder.iterdir()] == ["young"]
    files.remove()


def heic(size: tuple[int, int] = (48, 64)) -> bytes:
    """A drawn image as a phone would write it."""
    import pillow_heif

    image = Image.new("RGB", size, (200, 40, 40))
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95)
    return buffer.getvalue()


def test_a_phones_heic_opens(parts: Any) -> None:
    content = heic()
    assert content[4:8] == b"ftyp"
    assert parts.image_files.kind_of(content[:16]) == "HEIF"
    image = parts.image_files.read_image(content)
    assert (image.mode, image.size, image.info) == ("RGB", (48, 64), {})
    assert np.asarray(image).reshape(-1, 3).mean(0) == pytest.approx([200, 40, 40], abs=4)
    with pytest.raises(parts.image_files.ImageUnusableError, match="may be damaged"):
        parts.image_files.read_image(content[: len(content) // 2])
    with pytest.raises(parts.image_files.ImageUnusableError, match="at least 32 on each side"):
        parts.image_files.read_image(heic((16, 64)))


def test_without_the_library_a_heic_is_refused_with_what_to_do(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.image_files, "OPENS_HEIC", False)
    with pytest.raises(parts.image_files.ImageUnusableError) as refused:
        parts.image_files.read_image(heic())
    assert "HEIC" in str(refused.value)
    assert "JPEG" in str(refused.value)
