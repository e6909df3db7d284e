"""Draws the clean surfaces and parts of the dataset `synthetic`, and the camera that takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A clean picture before noise.

    `colours` [N, N, 3] is brightness 0..1; `region` [N, N], 0..1, is where the inspected thing is;
    `beneath` [3] is the colour that shows where material is missing.
    """

    colours: Floats
    region: Floats
    beneath: Floats


def weave(random: Generator, size: int) -> Scene:
    """Plain woven cloth: twisted threads over and under each other, each of slightly different brightness."""
    x, y = _turned_grid(random, size, degrees=4)
    across = (x + random.uniform()) * 14 + 0.07 * blotches(random, size, 3)
    along = (y + random.uniform()) * 14 + 0.07 * blotches(random, size, 3)
    column, row = np.floor(across).astype(int), np.floor(along).astype(int)
    thread_light = 1 + 0.06 * random.standard_normal((2, 64))

    def thread(sideways: Floats, lengthways: Floats, light: Floats) -> Floats:
        """One thread's brightness: round across, arched where it crosses over the other, with its twist."""
        roundness = np.sqrt(np.clip(1 - (1.9 * sideways) ** 2, 0, 1))
        arch = np.cos(np.pi * lengthways)
        twist = 1 + 0.10 * np.sin(2 * np.pi * (3 * lengthways + 1.5 * sideways))
        return (0.15 + 0.85 * roundness * (0.35 + 0.65 * arch)) * twist * light

    sideways, lengthways = across - column - 0.5, along - row - 0.5
    warp = thread(sideways, lengthways, thread_light[0, column % 64])
    weft = thread(lengthways, sideways, thread_light[1, row % 64])
    over = ((column + row) % 2 == 0)[..., None]
    warp_colour, weft_colour = np.array([0.78, 0.73, 0.63]), np.array([0.66, 0.64, 0.60])
    colours = np.where(over, warp[..., None] * warp_colour, weft[..., None] * weft_colour)
    return Scene(colours, np.ones((size, size)), np.array([0.10, 0.09, 0.09]))


def grain(random: Generator, size: int) -> Scene:
    """Cast or sanded stone: grain of several sizes with dark and light specks."""
    rough = sum(
        weight * blotches(random, size, cells)
        for weight, cells in ((0.035, 5), (0.045, 14), (0.06, size // 4), (0.05, size // 2))
    )
    specks = blotches(random, size, size // 3)
    light = 0.5 + rough - 0.10 * (specks > 1.6) + 0.10 * (specks < -1.7)
    tint = np.array([1.0, 0.97, 0.93]) * (1 + 0.01 * random.standard_normal(3))
    return Scene(light[..., None] * tint, np.ones((size, size)), np.array([0.16, 0.15, 0.15]))


def tiles(random: Generator, size: int) -> Scene:
    """Clay tiles in a running bond with light grout, each tile of slightly different brightness."""
    x, y = _turned_grid(random, size, degrees=3)
    rows = (y + random.uniform()) * 5.0
    row = np.floor(rows).astype(int)
    columns = (x + random.uniform()) * 3.4 + 0.5 * (row % 2)
    column = np.floor(columns).astype(int)
    # Distance to the nearest edge of the tile, in widths of the image.
    edge = np.minimum(
        np.minimum(columns - column, column + 1 - columns) / 3.4, np.minimum(rows - row, row + 1 - rows) / 5.0
    )
    face = step(edge - 0.011, 1.2 / size)
    bevel = 0.82 + 0.18 * np.clip((edge - 0.011) / 0.022, 0, 1)
    light = 1 + 0.07 * random.standard_normal((32, 32))[row % 32, column % 32]
    glaze = 1 + 0.02 * blotches(random, size, 9)
    grout = np.array([0.70, 0.68, 0.64]) * (1 + 0.04 * blotches(random, size, size // 2))[..., None]
    clay = np.array([0.52, 0.29, 0.22]) * (light * bevel * glaze)[..., None]
    colours = grout + (clay - grout) * face[..., None]
    return Scene(colours, np.ones((size, size)), np.array([0.72, 0.66, 0.60]))


def discs(random: Generator, size: int) -> Scene:
    """A machined flange on a dark table: turned rings, a bore, and six screw holes at any rotation."""
    x, y = grid(size)
    x, y = x - random.normal(0, 0.02), y - random.normal(0, 0.02)
    turn, scale = random.uniform(0, 2 * np.pi), random.uniform(0.97, 1.03)
    radius, angle = np.hypot(x, y) / scale, np.arctan2(y, x)
    soft = 1.2 / size
    holes = np.ones_like(x)
    for place in turn + np.arange(6) * np.pi / 3:
        away = np.hypot(x - 0.285 * scale * np.cos(place), y - 0.285 * scale * np.sin(place))
        holes *= step(away - 0.034 * scale, soft)
    part = step(0.41 - radius, soft) * step(radius - 0.11, soft) * holes
    # Turned metal reflects in two opposite fans, wherever the part's own rotation is.
    sheen = 0.10 * np.cos(2 * (angle - random.normal(0.8, 0.1)))
    grooves = 0.025 * np.sin(radius * 2 * np.pi * 32 + random.uniform(0, 6))
    boss = 0.10 * step(0.19 - radius, 2 * soft)
    rim = -0.16 * np.exp(-(((radius - 0.395) / 0.012) ** 2)) - 0.12 * np.exp(-(((radius - 0.19) / 0.008) ** 2))
    metal = (0.60 + sheen + grooves + boss + rim)[..., None] * np.array([0.97, 1.0, 1.03])
    table = np.array([0.10, 0.11, 0.13]) * (1 + 0.08 * blotches(random, size, 7))[..., None]
    return Scene(table + (metal - table) * part[..., None], part, np.array([0.10, 0.11, 0.13]))


def bolts(random: Generator, size: int) -> Scene:
    """The head of a hexagon bolt with a washer on a light table, at any rotation."""
    x, y = grid(size)
    x, y = x - random.normal(0, 0.025), y - random.normal(0, 0.025)
    turn, scale = random.uniform(0, np.pi / 3), random.uniform(0.96, 1.04)
    radius, soft = np.hypot(x, y) / scale, 1.2 / size
    faces = turn + np.arange(6) * np.pi / 3
    hexagon = np.max([x * np.cos(face) + y * np.sin(face) for face in faces], axis=0) / scale
    washer, head = step(0.41 - radius, soft), step(0.24 - hexagon, soft)
    angle = np.arctan2(y, x)
    nearest = np.round((angle - turn) / (np.pi / 3)) * np.pi / 3 + turn
    # The chamfer between the round top and the six flats catches the light on one side only.
    chamfer = 0.40 + 0.16 * np.cos(nearest - 0.9)
    stamp = 0.14 * np.exp(-(((radius - 0.15) / 0.009) ** 2))
    brushed = 0.012 * blotches(random, size, size // 3)
    top = step(0.225 - radius, soft)
    steel = chamfer + (0.66 + brushed - stamp - chamfer) * top
    shadow = 0.30 * np.exp(-np.maximum(hexagon - 0.24, 0) / 0.018)
    ring = 0.52 + 0.05 * np.cos(2 * (angle - random.normal(0.5, 0.2))) - shadow
    table = 0.84 + 0.006 * blotches(random, size, 6) - 0.30 * np.exp(-np.maximum(radius - 0.41, 0) / 0.012)
    light = table + (ring - table) * washer
    light = light + (steel - light) * head
    tint = np.array([1.0, 0.99, 0.96])
    return Scene(light[..., None] * tint, washer, np.array([0.20, 0.18, 0.17]))


def photograph(random: Generator, size: int) -> Callable[[Floats], npt.NDArray[np.uint8]]:
    """A camera with its lighting and noise drawn once: colours [N, N, 3] 0..1 -> uint8 [N, N, 3].

    Each pixel of the result depends on its own colour only, so two scenes taken by the same camera
    differ exactly where their colours do.
    """
    x, y = grid(size)
    direction = random.uniform(0, 2 * np.pi)
    slope = random.uniform(0, 0.10) * (x * np.cos(direction) + y * np.sin(direction))
    light = random.normal(1, 0.04) + slope
    balance = 1 + 0.01 * random.standard_normal(3)
    noise = 0.014 * random.standard_normal((size, size, 3))

    def take(colours: Floats) -> npt.NDArray[np.uint8]:
        exposed: Floats = colours * light[..., None] * balance + noise
        pixels: npt.NDArray[np.uint8] = np.rint(np.clip(exposed, 0, 1) * 255).astype(np.uint8)
        return pixels

    return take


def grid(size: int) -> tuple[Floats, Floats]:
    """x and y of the pixel centres, -0.5..0.5, each [N, N]."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    return x, y


def _turned_grid(random: Generator, size: int, degrees: float) -> tuple[Floats, Floats]:
    x, y = grid(size)
    angle = np.deg2rad(random.uniform(-degrees, degrees))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def blotches(random: Generator, size: int, cells: int) -> Floats:
    """Smooth noise [N, N] of about unit deviation, with about `cells` blotches a side."""
    cells = max(2, cells)
    coarse = random.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) * 1.3


def step(distance: Floats, softness: float) -> Floats:
    """0 below zero and 1 above, with an edge of the given width."""
    return np.clip(distance / softness + 0.5, 0, 1)
