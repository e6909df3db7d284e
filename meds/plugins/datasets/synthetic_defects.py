"""Paints the defects of the dataset `synthetic` onto its clean scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meds.plugins.datasets.synthetic_textures import (
    Floats,
    Generator,
    Scene,
    blotches,
    bolts,
    discs,
    grain,
    grid,
    step,
    tiles,
    weave,
)

Painter = Callable[[Generator, Scene, float], Floats]


def scratch(random: Generator, scene: Scene, contrast: float) -> Floats:
    """A thin bent line, lighter or darker than the surface; returns the colours [N, N, 3]."""
    size = len(scene.region)
    x, y = grid(size)
    row, column = _place(random, scene)
    heading, bow = random.uniform(0, np.pi), random.normal(0, 0.8)
    length, width = random.uniform(0.14, 0.34), random.uniform(0.006, 0.012)
    along = (x - column) * np.cos(heading) + (y - row) * np.sin(heading)
    across = (y - row) * np.cos(heading) - (x - column) * np.sin(heading) + bow * along**2
    # Thins out towards both ends.
    half_width = width * np.sqrt(np.clip(1 - (2 * along / length) ** 2, 0, 1))
    cover = step(half_width - np.abs(across), 1.0 / size) * (np.abs(along) < length / 2)
    target = np.full(3, 0.95 if random.uniform() < 0.6 else 0.05)
    return _painted(scene, cover * random.uniform(0.5, 0.8), target, contrast)


def spot(random: Generator, scene: Scene, contrast: float) -> Floats:
    """One to three small dark or rusty spots; returns the colours [N, N, 3]."""
    colours = scene.colours
    target = np.array([0.06, 0.06, 0.07]) if random.uniform() < 0.5 else np.array([0.42, 0.20, 0.08])
    row, column = _place(random, scene)
    for _ in range(random.integers(1, 4)):
        cover = _blob(random, len(scene.region), row, column, random.uniform(0.016, 0.04), 0.012)
        painted = Scene(colours, scene.region, scene.beneath)
        colours = _painted(painted, cover * random.uniform(0.55, 0.85), target, contrast)
        row, column = row + random.normal(0, 0.06), column + random.normal(0, 0.06)
    return colours


def hole(random: Generator, scene: Scene, contrast: float) -> Floats:
    """A piece broken out, so that what lies beneath shows; returns the colours [N, N, 3]."""
    size = len(scene.region)
    row, column = _place(random, scene)
    cover = _blob(random, size, row, column, random.uniform(0.04, 0.085), 1.5 / size)
    rough = scene.beneath * (1 + 0.10 * blotches(random, size, size // 4))[..., None]
    return _painted(scene, cover * 0.92, rough, contrast)


def stain(random: Generator, scene: Scene, contrast: float) -> Floats:
    """A large soft discolouration that keeps the structure; returns the colours [N, N, 3]."""
    size = len(scene.region)
    row, column = _place(random, scene)
    cover = _blob(random, size, row, column, random.uniform(0.08, 0.15), 0.05)
    tint = np.array([[0.62, 0.55, 0.30], [0.45, 0.50, 0.62], [1.35, 1.35, 1.30]])[random.integers(3)]
    return _painted(scene, cover * random.uniform(0.45, 0.75), scene.colours * tint, contrast)


def shift(random: Generator, scene: Scene, contrast: float) -> Floats:
    """A patch whose structure is turned against its surroundings; returns the colours [N, N, 3]."""
    size = len(scene.region)
    row, column = _place(random, scene)
    cover = _blob(random, size, row, column, random.uniform(0.07, 0.12), 2.0 / size)
    x, y = grid(size)
    angle = random.uniform(0.35, 0.8) * random.choice([-1, 1])
    from_x = column + (x - column) * np.cos(angle) - (y - row) * np.sin(angle)
    from_y = row + (x - column) * np.sin(angle) + (y - row) * np.cos(angle)
    source = np.clip(np.rint((np.stack([from_y, from_x]) + 0.5) * size - 0.5), 0, size - 1).astype(int)
    return _painted(scene, cover, scene.colours[source[0], source[1]], contrast)


SURFACES: dict[str, tuple[Callable[[Generator, int], Scene], dict[str, Painter]]] = {
    "weave": (weave, {"scratch": scratch, "spot": spot, "hole": hole, "stain": stain, "shift": shift}),
    "grain": (grain, {"scratch": scratch, "spot": spot, "hole": hole, "stain": stain}),
    "tiles": (tiles, {"scratch": scratch, "spot": spot, "hole": hole, "stain": stain, "shift": shift}),
    "discs": (discs, {"scratch": scratch, "spot": spot, "hole": hole, "stain": stain}),
    "bolts": (bolts, {"scratch": scratch, "spot": spot, "hole": hole, "stain": stain}),
}


def _blob(random: Generator, size: int, row: float, column: float, radius: float, softness: float) -> Floats:
    """Cover 0..1 [N, N] of an irregular round patch."""
    x, y = grid(size)
    angle = np.arctan2(y - row, x - column)
    outline = np.ones_like(x)
    for waves in (1, 2, 3, 5, 8):
        outline += random.normal(0, 0.22 / waves**0.7) * np.cos(waves * angle + random.uniform(0, 2 * np.pi))
    return step(radius * np.clip(outline, 0.45, 1.8) - np.hypot(x - column, y - row), softness)


def _place(random: Generator, scene: Scene) -> tuple[float, float]:
    """y and x, -0.5..0.5, of a random point on the inspected thing."""
    size = len(scene.region)
    margin = max(1, size // 12)
    inner = np.zeros_like(scene.region)
    inner[margin:-margin, margin:-margin] = scene.region[margin:-margin, margin:-margin]
    rows, columns = np.nonzero(inner > 0.9)
    chosen = random.integers(len(rows))
    return float((rows[chosen] + 0.5) / size - 0.5), float((columns[chosen] + 0.5) / size - 0.5)


def _painted(scene: Scene, cover: Floats, target: Floats, contrast: float) -> Floats:
    alpha = np.clip(cover * scene.region * contrast, 0, 1)[..., None]
    return np.asarray(scene.colours + (target - scene.colours) * alpha)
