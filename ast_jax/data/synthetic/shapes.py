"""The products of the synthetic data set: a biscuit, a hexagonal bolt, a turned flange.

Each is a height field with its material. Every function draws one specimen: pose,
measures and texture vary from part to part as on a production line. Lengths are
millimetres.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ast_jax.data.synthetic.rendering import Surface, grid, noise, rotate, step

Rng = np.random.Generator


def _pose(
    rng: Rng, size: int, shift: float, turn: float
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """The part's own coordinates (u, v): shifted and turned (degrees) at random."""
    x, y = grid(size)
    angle = math.radians(rng.normal(0, turn))
    dx, dy = rng.normal(0, shift, 2).tolist()
    return rotate(x - dx, y - dy, angle)


def _fillet(inside: Float[np.ndarray, "s s"], radius: float) -> np.ndarray:
    """Height to take off within `radius` of the outline for a rounded edge."""
    t = np.clip(1 - inside / radius, 0, 1)
    return radius * (1 - np.sqrt(1 - t * t))


def _paint(
    colour: tuple[float, float, float], value: Float[np.ndarray, "s s"]
) -> Float[np.ndarray, "s s 3"]:
    return np.clip(np.float32(colour) * value[..., None], 0.01, 1)


def flange(rng: Rng, size: int) -> Surface:
    """A turned steel flange: a ring with six bolt holes and a raised sealing face."""
    u, v = _pose(rng, size, 1.0, 4.0)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    outer, inner = rng.normal([36, 15], 0.12).tolist()
    sector = np.mod(angle, np.pi / 3) - np.pi / 6
    bolt = np.hypot(radius * np.cos(sector) - 28, radius * np.sin(sector)) - 3.4
    inside = np.minimum(np.minimum(outer - radius, radius - inner), bolt)
    face = 2.2 * step(radius, 22.5, 21.5)
    tool = rng.normal(0, 0.02, 160)
    marks = np.interp(radius, np.linspace(0, 75, 160), tool).astype(np.float32)
    grain = noise(rng, size, 1.2, 1.6)
    stone = noise(rng, size, 14.0)
    value = rng.normal(1, 0.025) * (1 + 0.035 * grain + 0.03 * stone)
    return Surface(
        top=12 + face - _fillet(inside, 1.2),
        inside=inside,
        albedo=_paint((0.27, 0.275, 0.285), value),
        gloss=0.22 + 0.12 * np.cos(2 * (angle - 0.87)),
        relief=marks + 0.012 * grain,
    )


def biscuit(rng: Rng, size: int) -> Surface:
    """A butter biscuit: scalloped edge, docked holes, browned towards the rim."""
    u, v = _pose(rng, size, 1.0, 2.5)
    half_u, half_v = 35.0, 27.5
    qu, qv = np.abs(u) - half_u + 5, np.abs(v) - half_v + 5
    box = 5 - np.hypot(np.maximum(qu, 0), np.maximum(qv, 0))
    box = box - np.minimum(np.maximum(qu, qv), 0)
    scallop = 0.9 * np.cos(2 * np.pi * np.where(qu > qv, v, u) / 5)
    crumbs = noise(rng, size, 3.0, 2.2)
    swell = noise(rng, size, 18.0)
    inside = box + scallop * step(box, 6.0, 1.0) + 0.15 * crumbs
    dock = np.hypot(np.mod(u + 6, 12) - 6, np.mod(v, 11) - 5.5)
    pits = np.exp(-((dock / 1.3) ** 2)) * step(box, 6.0, 8.0)
    groove = np.exp(-(((box - 5.5) / 0.8) ** 2))
    top = 11 + 0.3 * swell + 0.16 * crumbs - 1.8 * pits - 0.8 * groove
    brown = step(box, 9.0, -1.0) * rng.normal(0.55, 0.06) + 0.12 * swell + 0.08 * crumbs
    brown = np.clip(brown + rng.normal(0.15, 0.04), 0, 1)[..., None]
    dough, crust = np.float32([[0.72, 0.47, 0.20], [0.40, 0.17, 0.05]])
    speckle = 1 + 0.05 * noise(rng, size, 0.8, 1.5)
    return Surface(
        top=top - _fillet(inside, 2.5),
        inside=inside,
        albedo=(dough + (crust - dough) * brown) * speckle[..., None],
        gloss=np.full((size, size), np.float32(0.02)),
        relief=0.1 * noise(rng, size, 1.0, 1.8),
    )


def bolt(rng: Rng, size: int) -> Surface:
    """A brass bolt lying on its side: hexagonal head, collar, threaded shaft."""
    u, v = _pose(rng, size, 0.5, 1.0)
    apothem, axis, pitch = 17.0, 17.0, 4.0
    flank = np.abs(v)
    head = np.minimum(np.minimum(u + 34, -16 - u), 2 * apothem / 3**0.5 - flank)
    chamfer = 0.5 * np.clip(2.5 - np.minimum(u + 34, -16 - u), 0, 2.5)
    hexagon = np.minimum(apothem, 2 * apothem - 3**0.5 * flank) - chamfer
    roll = np.arcsin(np.clip(v / 12.5, -1, 1)) / (2 * np.pi)
    phase = np.mod(u / pitch + roll + rng.random(), 1)
    thread = 1.6 * np.abs(phase - 0.5) * step(u, -11.0, -8.0)
    radius = 12 + thread - 1.2 * step(u, 30.0, 34.0)
    shaft = np.minimum(np.minimum(34 - u, u + 17), radius - flank)
    cylinder = np.sqrt(np.clip(radius**2 - v**2, 1, None))
    top = axis + np.where(u < -16, np.clip(hexagon, 0, None), cylinder)
    grain, patina = noise(rng, size, 1.0, 1.6), noise(rng, size, 12.0)
    value = rng.normal(1, 0.025) * (1 + 0.04 * grain + 0.05 * patina)
    return Surface(
        top=top,
        inside=np.maximum(head, shaft),
        albedo=_paint((0.36, 0.25, 0.09), value),
        gloss=np.full((size, size), np.float32(0.45)),
        relief=0.012 * grain,
    )


CATEGORIES: dict[str, Callable[[Rng, int], Surface]] = {
    "biscuit": biscuit,
    "bolt": bolt,
    "flange": flange,
}
