"""What can be wrong with a synthetic part.

Each defect changes a surface and says which pixels it touched; `DEFECTS` says whether
the camera, the scanner or both get to see the change. Lengths are millimetres.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from ast_jax.data.synthetic.rendering import (
    FIELD,
    Surface,
    grid,
    noise,
    rotate,
    step,
)

Rng = np.random.Generator
# What rust and oil leave of a surface's red, green and blue.
SOAKS = np.float32([[0.45, 0.33, 0.22], [0.30, 0.32, 0.36]])
# Blue and red paint, white plastic, mould.
DYES = np.float32(
    [[0.10, 0.22, 0.45], [0.50, 0.09, 0.07], [0.85, 0.85, 0.8], [0.2, 0.3, 0.12]]
)

Defective = tuple[Surface, Bool[np.ndarray, "s s"]]


def _place(
    rng: Rng, surface: Surface, margin: float
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """Coordinates round a random point at least `margin` inside the part, turned."""
    size = len(surface.top)
    points = rng.random((400, 2))
    rows, columns = (points.T * size).astype(int)
    clear = surface.inside[rows, columns]
    chosen = np.argmax(clear >= min(margin, clear.max()))
    y0, x0 = (FIELD * (points[chosen] - 0.5)).tolist()
    x, y = grid(size)
    return rotate(x - x0, y - y0, rng.uniform(0, 2 * np.pi))


def _blot(rng: Rng, surface: Surface, radius: float, ragged: float) -> np.ndarray:
    """An irregular spot: 1 at its middle, 0 at and beyond its edge."""
    a, b = _place(rng, surface, 0.7 * radius)
    stretch = rng.uniform(0.75, 1.35)
    distance = np.hypot(a * stretch, b / stretch) / radius
    distance = distance + ragged * noise(rng, len(surface.top), 12.0, 2.2)
    return np.clip(1 - distance, 0, 1)


def _tint(
    surface: Surface, amount: Float[np.ndarray, "s s"], colour: np.ndarray
) -> Float[np.ndarray, "s s 3"]:
    return surface.albedo + amount[..., None] * (colour - surface.albedo)


def stain(rng: Rng, surface: Surface) -> Defective:
    """Oil or rust soaked into the surface: darker, tinted, with a soft edge."""
    spot = step(_blot(rng, surface, rng.uniform(7, 10), 0.12), 0.0, 0.5)
    soaked = surface.albedo * SOAKS[rng.integers(len(SOAKS))]
    albedo = _tint(surface, rng.uniform(0.6, 0.8) * spot, soaked)
    changed = dataclasses.replace(surface, albedo=albedo)
    return changed, (spot > 0.25) & surface.mask


def contamination(rng: Rng, surface: Surface) -> Defective:
    """Foreign flakes lying close together: paint, plastic or mould."""
    near = _blot(rng, surface, rng.uniform(8, 11), 0.1)
    flakes = noise(rng, len(surface.top), 5.0, 3.0) + 2.2 * near
    spot = step(flakes, 1.35, 1.6) * (near > 0)
    spot = np.maximum(spot, step(near, 0.75, 0.8))
    colour = DYES[rng.integers(len(DYES))]
    changed = dataclasses.replace(surface, albedo=_tint(surface, 0.85 * spot, colour))
    return changed, (spot > 0.5) & surface.mask


def _deform(rng: Rng, surface: Surface, depth: float) -> Defective:
    bell = step(_blot(rng, surface, rng.uniform(8, 11), 0.06), 0.0, 0.9)
    changed = dataclasses.replace(surface, top=surface.top + depth * bell)
    return changed, (bell > 0.15) & surface.mask


def dent(rng: Rng, surface: Surface) -> Defective:
    """A shallow depression without an edge."""
    return _deform(rng, surface, -rng.uniform(2.5, 4))


def bump(rng: Rng, surface: Surface) -> Defective:
    """A shallow swelling without an edge."""
    return _deform(rng, surface, rng.uniform(2.5, 4))


def hole(rng: Rng, surface: Surface) -> Defective:
    """A broken-in hole with steep walls and a crumbled rim."""
    spot = _blot(rng, surface, rng.uniform(4, 6), 0.12)
    pit = step(spot, 0.0, 0.4)
    changed = dataclasses.replace(
        surface,
        top=surface.top - rng.uniform(6, 9) * pit,
        albedo=surface.albedo * (1 - 0.45 * pit)[..., None],
        gloss=surface.gloss * (1 - pit),
    )
    return changed, (pit > 0.1) & surface.mask


def cut(rng: Rng, surface: Surface) -> Defective:
    """A straight notch with thrown-up edges that lays the raw material bare."""
    a, b = _place(rng, surface, 4.0)
    size = len(surface.top)
    reach, width = rng.uniform(7, 11), rng.uniform(1.3, 1.8)
    b = b + 0.25 * noise(rng, size, 5.0) + rng.normal(0, 0.006) * a * a
    ends = step(np.abs(a), reach, reach - 4)
    groove = np.exp(-((b / width) ** 2)) * ends
    burr = np.exp(-(((np.abs(b) - 1.8 * width) / (0.5 * width)) ** 2)) * ends
    changed = dataclasses.replace(
        surface,
        top=surface.top - rng.uniform(3.5, 5) * groove + 0.6 * burr,
        albedo=np.clip(surface.albedo * (1 + 0.35 * groove)[..., None], 0, 1),
        relief=surface.relief + 0.08 * groove * noise(rng, size, 1.0, 1.5),
    )
    return changed, (np.maximum(groove, burr) > 0.2) & surface.mask


@dataclasses.dataclass(frozen=True)
class Defect:
    """How a defect changes a surface, and in which of "rgb" and "3d" that shows."""

    apply: Callable[[Rng, Surface], Defective]
    shows: frozenset[str]


DEFECTS: dict[str, Defect] = {
    "bump": Defect(bump, frozenset({"3d"})),
    "contamination": Defect(contamination, frozenset({"rgb"})),
    "cut": Defect(cut, frozenset({"rgb", "3d"})),
    "dent": Defect(dent, frozenset({"3d"})),
    "hole": Defect(hole, frozenset({"rgb", "3d"})),
    "stain": Defect(stain, frozenset({"rgb"})),
}
