"""Reading images: every pixel type, orientation, and what is said of damaged files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from meds.core import images
from meds.core.errors import DataError

ORIENTATION = 0x0112
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def save(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
    picture.save(path, **options)
    return path


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_eight_bit_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP).convert(mode))
    pixels = images.read_rgb(path)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([RAMP] * 3, axis=2))


def test_colour_and_palette_keep_their_colours(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], dtype=np.uint8)
    assert np.array_equal(images.read_rgb(save(tmp_path / "a.png", colours)), colours)
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert images.read_rgb(save(tmp_path / "p.png", palette))[0, 1].tolist() == [200, 100, 50]


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    pixels = images.read_rgb(save(tmp_path / "a.png", Image.fromarray(RAMP > 100)))
    assert set(np.unique(pixels)) == {0, 255}


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[..., 0] = 77
    assert images.read_rgb(save(tmp_path / "a.png", clear))[0, 0].tolist() == [77, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_by_the_full_range(tmp_path: Path, suffix: str) -> None:
    dark = np.array([[0, 257, 514], [65535, 385, 386]], dtype=np.uint16)
    pixels = images.read_rgb(save(tmp_path / f"a{suffix}", dark))
    assert pixels[..., 0].tolist() == [[0, 1, 2], [255, 1, 2]]
    only_dark = images.read_rgb(save(tmp_path / f"b{suffix}", np.full((2, 2), 514, np.uint16)))
    assert (only_dark == 2).all()


def test_of_sixteen_bits_fewer_may_be_used(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1, 8, 9, 2048, 4095]], dtype=np.uint16))
    expected = [round(v * 255 / 4095) for v in (0, 1, 8, 9, 2048, 4095)]
    assert images.read_rgb(path, bits=12)[0, :, 0].tolist() == expected
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert (images.read_rgb(save(tmp_path / "b.png", every))[..., 0] == np.rint(every / 257)).all()
    with pytest.raises(images.BitsError, match=r"holds 4095, which takes 12 bits: raise `dataset.bits` to 12"):
        images.read_rgb(path, bits=10)
    coloured = save(tmp_path / "c.png", np.full((2, 2, 3), 200, np.uint8))
    assert (images.read_rgb(coloured, bits=10) == 200).all()


def test_big_endian_and_integer_modes(tmp_path: Path) -> None:
    values = np.array([[0, 2570]], dtype=np.uint16)
    big = Image.frombytes("I;16B", (2, 1), values.astype(">u2").tobytes())
    assert images.read_rgb(save(tmp_path / "b.tif", big))[..., 1].tolist() == [[0, 10]]
    whole = Image.fromarray(values.astype(np.int32))
    assert whole.mode == "I"
    assert images.read_rgb(save(tmp_path / "i.tif", whole))[..., 2].tolist() == [[0, 10]]


def test_float_images_hold_zero_to_one(tmp_path: Path) -> None:
    path = save(tmp_path / "f.tif", np.array([[0, 0.5, 1]], dtype=np.float32))
    assert images.read_rgb(path)[..., 0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_float_images_of_another_range_are_refused(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "f.tif", np.array([[0, value]], dtype=np.float32))
    with pytest.raises(DataError, match=r"f\.tif: holds floats outside 0\.\.1.*convert it"):
        images.read_rgb(path)


def test_integers_beyond_sixteen_bit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "i.tif", np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(DataError, match=r"integers outside 0\.\.65535"):
        images.read_rgb(path)


def sixteen_bit_colour_png(values: np.ndarray) -> bytes:
    import struct
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(sixteen_bit_colour_png(np.array([[[0x1234, 0xFFFF, 0x00FF]]], dtype=np.uint16)))
    assert images.read_rgb(path).tolist() == [[[0x12, 0xFF, 0x00]]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_is_applied_and_the_size_agrees(tmp_path: Path, suffix: str, number: int) -> None:
    values = np.zeros((16, 32), np.uint8)
    values[:8, :8] = 255
    path = save(tmp_path / f"a{suffix}", values, exif=with_orientation(number))
    pixels = images.read_rgb(path)
    turned = number >= 5
    assert pixels.shape == ((32, 16, 3) if turned else (16, 32, 3))
    assert images.size_of(path) == pixels.shape[:2]
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    expected = {(row, column): (row, column) == corners[number] for row in (0, -1) for column in (0, -1)}
    mask = images.read_mask(path)
    assert {corner: bool(mask[corner]) for corner in expected} == expected


def test_sixteen_bit_images_are_turned_too(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((2, 3), 5140, np.uint16), exif=with_orientation(6))
    assert images.read_rgb(path).shape == (3, 2, 3)


def test_png_orientation_behind_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RAMP, exif=with_orientation(6))
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    length = int.from_bytes(content[start : start + 4], "big") + 12
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    path.write_bytes(moved)
    assert images.size_of(path) == images.read_rgb(path).shape[:2] == (4, 3)


def test_size_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"a{suffix}", RAMP) for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp")]

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    assert [images.size_of(path) for path in paths] == [(3, 4)] * 5


def damaged(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = {suffix: save(folder / f"whole{suffix}", noise).read_bytes() for suffix in (".png", ".jpg", ".tif")}
    paths = {f"cut{suffix}": folder / f"cut{suffix}" for suffix in whole}
    for suffix, content in whole.items():
        paths[f"cut{suffix}"].write_bytes(content[: len(content) // 2])
    paths |= {name: folder / f"{name}.png" for name in ("missing", "text", "empty", "folder")}
    paths["text"].write_text("not an image")
    paths["empty"].touch()
    paths["folder"].mkdir()
    return paths


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif", "missing", "text", "empty", "folder"])
def test_unreadable_files_give_one_sentence(tmp_path: Path, name: str) -> None:
    path = damaged(tmp_path)[name]
    for read in (images.read_rgb, images.read_mask):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).endswith("; remove it or set `dataset.unreadable: skip`.")
        assert "\n" not in str(caught.value)


def test_missing_files_are_called_missing(tmp_path: Path) -> None:
    for read in (images.read_rgb, images.size_of, images.file_digest):
        with pytest.raises(DataError, match="there is no such file"):
            read(tmp_path / "a.png")


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RAMP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match="too many pixels"):
        images.read_rgb(path)


def test_large_images_below_the_limit_are_read_without_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RAMP)
    code = (
        "from pathlib import Path; from PIL import Image; from meds.core import images; "
        f"Image.MAX_IMAGE_PIXELS = {RAMP.size - 1}; print(images.read_rgb(Path({str(path)!r})).shape)"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(3, 4, 3)", "")
