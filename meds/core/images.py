"""Decodes, resizes and hashes image files: the one place of meds where pixels are read from disk."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from meds.core.backbone import Preprocessing
from meds.core.errors import DataError, UserError
from meds.core.image_files import list_images, printable

# Half as many pixels as are refused is what a line camera gives, and no attack.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FULL_BITS = 16
_DIGEST_CHUNK = 1 << 20
_ORIENTATION = ExifTags.Base.Orientation
_QUARTER_TURNS = {5, 6, 7, 8}
_PNG_METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}


class UnreadableImageError(DataError):
    """An image file cannot be read; `what` says which and why, without what a spec can do about it."""

    def __init__(self, path: Path, reason: str) -> None:
        self.what = f"{printable(path)}: {reason}."
        super().__init__(f"{printable(path)}: {reason}; remove it or set `dataset.unreadable: skip`.")


class BitsError(UserError):
    """An image's values take more bits than the data set says: no fault of the image, never left out for it."""


def read_rgb(path: Path, bits: int = FULL_BITS) -> npt.NDArray[np.uint8]:
    """An image file as RGB uint8 [H, W, 3], turned upright by its EXIF orientation.

    Grey and palette images become RGB; alpha is dropped, not blended. 16-bit grey, of which the lowest `bits` are
    used, is divided by (2^bits - 1) / 255 and float images must hold 0..1 and are multiplied by 255: the scale is the
    type's and never the image's, so brightness stays comparable between images. 16-bit colour keeps its high byte. Of a
    file with many frames the first is read. Raises UnreadableImageError for any file that cannot be read, and BitsError
    for values that take more bits.
    """
    with _opened(path) as picture:
        values, full_range = _decoded(picture)
    if full_range == 65535:
        full_range = 2**bits - 1
        if values.max() > full_range:
            used = int(values.max()).bit_length()
            raise BitsError(f"{path}: holds {values.max()}, which takes {used} bits: raise `dataset.bits` to {used}.")
        values = (values.astype(np.uint32) * 255 + full_range // 2) // full_range
    elif full_range == 1:
        values = np.rint(values * 255)
    pixels = values.astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """A mask file as bool [H, W], True on the defect, turned upright by its EXIF orientation.

    True is what lies above half of the type's range (above 127 of 0..255). If nothing does, the file is
    taken as a map of numbers (0 and 1, or 0 and the number of the defect type) and everything above 0 is
    True. Of colours the brightest channel counts; alpha is dropped. A folder of mask files, one for each
    defect of the image, gives their union. Raises DataError as `read_rgb`.
    """
    if path.is_dir():
        mask_size(path)
        return np.asarray(np.any([read_mask(part) for part in list_images(path)], axis=0))
    with _opened(path) as picture:
        values, full_range = _decoded(picture)
    if values.ndim == 3:
        values = values.max(axis=2)
    above_half = np.asarray(values > full_range / 2)
    return above_half if above_half.any() else np.asarray(values > 0)


def mask_size(path: Path) -> tuple[int, int]:
    """(height, width) of a mask file or of a folder of mask files, as `size_of`.

    Raises UnreadableImageError also for a folder whose files are none or differ in size.
    """
    if not path.is_dir():
        return size_of(path)
    sizes = {size_of(part) for part in list_images(path)}
    if len(sizes) != 1:
        raise UnreadableImageError(path, "holds masks of different sizes" if sizes else "holds no mask")
    return sizes.pop()


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) that `read_rgb` would give, from the file's header: pixels are not decoded.

    Only a PNG with metadata after its pixels is decoded. Raises DataError as `read_rgb`.
    """
    with _opened(path) as picture:
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            # Whether `size` of an unread TIFF is already turned depends on Pillow; its tags never are.
            width, height = picture.tag_v2[256], picture.tag_v2[257]
            orientation = picture.tag_v2.get(_ORIENTATION)
        else:
            width, height = picture.size
            orientation = _orientation(picture, path)
    return (width, height) if orientation in _QUARTER_TURNS else (height, width)


def largest_of_16_bits(path: Path) -> int | None:
    """The largest value of a grey image of 16 bits, None for any other image. Raises DataError as `read_rgb`."""
    with _opened(path) as picture:
        if picture.mode != "I" and not picture.mode.startswith("I;16"):
            return None
        return int(np.asarray(picture).max())


def pages(path: Path) -> int:
    """How many pages or frames an image file holds, of which the first is read. Raises DataError as `read_rgb`."""
    with _opened(path) as picture:
        return int(getattr(picture, "n_frames", 1))


def share_of_two_values(path: Path) -> float:
    """Share of an image's pixels, 0 to 1, whose grey value is one of its two commonest of 16 levels.

    Near 1 for a mask, also one that a lossy format has smeared. Raises DataError as `read_rgb`.
    """
    grey = read_rgb(path).mean(axis=2)
    counts = np.sort(np.bincount((grey / 16).astype(np.int64).ravel(), minlength=16))
    return float(counts[-2:].sum() / counts.sum())


def resize_and_crop(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] -> uint8 [S, S, 3]: bilinear to `resize`² pixels, then the central `size`²."""
    side = preprocessing.resize
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(_central(resized, preprocessing))


def resize_and_crop_mask(
    mask: npt.NDArray[np.bool_],
    preprocessing: Preprocessing,
    map_size: int,
    rule: Literal["half", "any"],
    resize: Literal["bilinear", "nearest"] = "bilinear",
) -> npt.NDArray[np.bool_]:
    """Bring a mask, bool [H, W], to the place and size of an anomaly map: bool [map_size, map_size].

    The mask goes through the image's resizing (or "nearest", which makes no grey values) and crop as values 0..255,
    then to `map_size` by nearest neighbour. "half" keeps what is more than half covered, "any" what a defect touches
    at all.
    """
    side = preprocessing.resize
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    method = Image.Resampling.BILINEAR if resize == "bilinear" else Image.Resampling.NEAREST
    cut = np.asarray(_central(grey.resize((side, side), method), preprocessing))
    source = np.arange(map_size) * preprocessing.size // map_size
    sampled = cut[np.ix_(source, source)]
    return np.asarray(sampled > (127.5 if rule == "half" else 0))


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes. Raises UnreadableImageError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_DIGEST_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnreadableImageError(path, _reason(error)) from error
    return digest.hexdigest()


def pixel_digest(pixels: npt.NDArray[np.generic]) -> str:
    """sha256 (hex) of the shape and pixels of an image or a mask."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def mask_digest(path: Path) -> str:
    """sha256 (hex) of a mask file's bytes, or of those of a folder of several in their order; "" if neither is there.

    Raises UnreadableImageError as `file_digest`.
    """
    if path.is_dir():
        return hashlib.sha256("".join(map(file_digest, list_images(path))).encode()).hexdigest()
    return file_digest(path) if path.is_file() else ""


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, and turn whatever goes wrong inside the block into an UnreadableImageError."""
    try:
        # Given a path, Pillow may map the file into memory, which mixes up the sides of a turned TIFF.
        with path.open("rb") as file, Image.open(file) as picture:
            yield picture
    except Exception as error:
        # Damaged files make Pillow's decoders raise errors of many unrelated types.
        raise UnreadableImageError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, Image.DecompressionBombError):
        return "has too many pixels to be decoded safely; cut it into several images or make it smaller"
    if isinstance(error, _UnusableError):
        return str(error)
    if isinstance(error, OSError) and error.strerror is not None:
        return f"cannot be read ({error.strerror})"
    return f"is damaged or cut short ({error})"


class _UnusableError(Exception):
    """The file is intact, but its values have no fixed meaning as brightness."""


def _decoded(picture: Image.Image) -> tuple[npt.NDArray[Any], int]:
    """Upright values [H, W] or [H, W, 3] and the full range of their type: 255, 65535 or 1."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        return _checked(np.asarray(upright), 65535, "integers"), 65535
    if upright.mode == "F":
        return _checked(np.asarray(upright), 1, "floats"), 1
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB")), 255


def _checked(values: npt.NDArray[Any], full_range: int, kind: str) -> npt.NDArray[Any]:
    # Written so that a NaN fails as well.
    if not (values.min() >= 0 and values.max() <= full_range):
        raise _UnusableError(
            f"holds {kind} outside 0..{full_range}, whose brightness is not known; convert it to 8 or 16 bits"
        )
    return values


def _orientation(picture: Image.Image, path: Path) -> int | None:
    if picture.format == "PNG" and not _png_metadata_follows(path):
        # PngImageFile.getexif decodes all pixels to reach metadata behind them; the base class does not.
        return Image.Image.getexif(picture).get(_ORIENTATION)
    return picture.getexif().get(_ORIENTATION)


def _png_metadata_follows(path: Path) -> bool:
    """Whether a PNG has chunks that may hold an orientation after its pixels."""
    pixels_seen = False
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            name = header[4:]
            if pixels_seen and name in _PNG_METADATA:
                return True
            pixels_seen |= name == b"IDAT"
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
    return False


def _central(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    side = preprocessing.size
    start = round((preprocessing.resize - side) / 2)
    return picture.crop((start, start, start + side, start + side))
