"""Opens image files: which files are images, what their headers say, and their pixels as stored."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import UserError

# Suffixes of image files, in lower case.
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Pillow's formats that are opened, whatever a file's suffix says: others may run programs, as EPS does.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Modes of gray images whose samples have more than 8 bits, in counts and in a physical unit.
DEEP_GRAY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# The longest side an image may have, in shorter sides: resizing a strip by its short side takes gigabytes.
MAX_ASPECT = 100
# What Pillow's decoders raise on truncated or damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, MemoryError, struct.error)
# The EXIF orientation -> how to turn the stored pixels.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What begins EXIF data in a PNG, and more bytes than the largest that cameras write.
_EXIF_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_EXIF_BYTES = 1 << 17


class BadPair(UserError):
    """A pair that cannot be used; `file_name` is the file at fault."""

    def __init__(self, message: str, file_name: str = ""):
        super().__init__(message)
        self.file_name = file_name


def is_hidden(path: Path) -> bool:
    """Whether a file is a system's own, such as the ``._*`` and ``.DS_Store`` of a Mac, or Thumbs.db."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name, told by their suffixes; hidden files are none."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(p))


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder in the order of their paths, also behind links to folders."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
        for name in sorted(files):
            if not is_hidden(path := Path(root, name)):
                yield path


@contextlib.contextmanager
def open_image(path: str | Path, role: str) -> Iterator[tuple[Image.Image, int]]:
    """Give an image whose header alone is read, and the bits per sample: 32, 16 or 8, and 4 or 2 for gray.

    Args:
        role: what the image is, for messages.

    Raises:
        BadPair: the file is missing, unreadable, no image, too large or a strip. That also holds for errors
            of a decoder while the image is in use.
    """
    path = str(path)
    try:
        local = PathManager.get_local_path(path)
        # Opening a named pipe would wait for its other end for ever.
        if not stat.S_ISREG(os.stat(local).st_mode):
            raise BadPair(f"{role} {path} cannot be read (it is not a file): give an image file", path)
        with open(local, "rb") as file:
            image = Image.open(file, formats=_FORMATS)
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise BadPair(
                    f"{role} {path} is {width}x{height}, a strip of more than {MAX_ASPECT}:1: cut it into "
                    "pieces, or leave it out",
                    path,
                )
            yield image, _bits(image)
    except UserError:
        raise
    except FileNotFoundError:
        raise BadPair(f"{role} {path} is missing: restore it, or take it out of its set", path) from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        size = f"{int(pixels[0]) // 10**6}" if pixels else "too many"
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise BadPair(
            f"{role} {path} has {size} megapixels, and the limit is {limit}: cut it into tiles, or "
            "scale it down",
            path,
        ) from error
    except PermissionError as error:
        raise BadPair(f"{role} {path} cannot be read: change its permissions", path) from error
    except UnidentifiedImageError as error:
        raise BadPair(
            f"{role} {path} cannot be read (no known kind of image): fetch it again, or save it as "
            "PNG, JPEG, or TIFF of at most 32 bits",
            path,
        ) from error
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise BadPair(f"{role} {path} cannot be read ({why}): fetch it again", path) from error


def decode(path: str | Path, role: str) -> tuple[Image.Image, int]:
    """The decoded image as stored, and its bits per sample; see :func:`open_image`."""
    with open_image(path, role) as (image, bits):
        image.load()
    return image, bits


def _bits(image: Image.Image) -> int:
    # Pillow silently opens 16-bit RGB as 8-bit RGB, and gray of fewer bits as 8-bit gray; only the decoder's
    # raw mode shows what is in the file.
    raw = " ".join(str(tile[3]) for tile in image.tile)
    if match := re.search(r";(16|32|64)", raw):
        return int(match[1])
    if match := re.search(r"L;([24])", raw):
        return int(match[1])
    if image.format == "PPM" and (match := re.search(r"([0-9]+)\)$", raw)) and int(match[1]) > 255:
        return 16
    return {"F": 32}.get(image.mode, 16 if image.mode in DEEP_GRAY else 8)


def kind_of(image: Image.Image, bits: int) -> str:
    """A description of an image's format, such as "4 channels, 8 bits (RGBA)"."""
    channels = len(image.getbands())
    return f"{channels} channel{'s' * (channels > 1)}, {bits} bits ({image.mode})"


def turned(image: Image.Image) -> Image.Image:
    """A decoded image as its EXIF orientation wants it shown. Pillow turns a TIFF when it decodes it."""
    turn = _TURNS.get(_orientation(image.getexif))
    return image if turn is None else image.transpose(turn)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels of what :func:`turned` will give, from the header of an opened image."""
    # The base class's method: PNG's own one decodes the whole image to look for EXIF data at its end.
    late = image.format == "PNG" and _has_late_exif(image.fp)
    orientation = _orientation(image.getexif if late else lambda: Image.Image.getexif(image))
    if orientation not in (5, 6, 7, 8):
        return image.size
    if image.format == "TIFF":  # some releases of Pillow have turned its size already, others have not yet
        return image.tag_v2[ExifTags.Base.ImageLength], image.tag_v2[ExifTags.Base.ImageWidth]
    return image.size[::-1]


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels from the file's header, after the rotation that its EXIF data asks for.

    Raises:
        BadPair: see :func:`open_image`.
    """
    with open_image(path, "image") as (image, _):
        return shown_size(image)


def stored_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of a label map, which is read as it is stored, whatever its EXIF data say.

    Raises:
        BadPair: see :func:`open_image`.
    """
    with open_image(path, "label map") as (image, _):
        return image.size


def _orientation(getexif: Callable[[], Image.Exif]) -> int:
    try:
        return getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow does not document what damaged EXIF data raises; the pixels are good
        return 1


def _has_late_exif(file: BinaryIO) -> bool:
    """Whether EXIF data may follow the pixels of a PNG, as the file's last bytes show; the position stays."""
    before = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _EXIF_BYTES))
    tail = file.read()
    file.seek(before)
    return any(mark in tail for mark in _EXIF_MARKS)
