"""The parts of the synthetic data set and what can be wrong with them.

Three made-up products, each a height field with its material: a turned flange, a
biscuit, a hexagonal bolt. Every function draws one specimen: pose, measures and texture
vary from part to part as they do in a production line. The defects change a surface and
say which pixels they touched. Lengths are millimetres.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from ast_jax.data.rendering import FIELD, Surface, grid, noise, step

Rng = np.random.Generator


def _pose(
    rng: Rng, size: int, shift: float, turn: float
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """The part's own coordinates (u, v): shifted and turned (degrees) at random."""
    x, y = grid(size)
    angle = math.radians(rng.normal(0, turn))
    dx, dy = rng.normal(0, shift, 2).tolist()
    x, y = x - dx, y - dy
    return (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )


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

Defective = tuple[Surface, Bool[np.ndarray, "s s"]]


def _place(
    rng: Rng, surface: Surface, margin: float
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """Coordinates round a random point at least `margin` inside the part, turned."""
    size = len(surface.top)
    points = rng.random((400, 2))
    rows, columns = (points.T * size).astype(int)
    clear = surface.inside[rows, columns]
    y, x = (
        FIELD * (points[np.argmax(clear > min(margin, clear.max() * 0.99))] - 0.5)
    ).tolist()
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = grid(size)[0] - x, grid(size)[1] - y
    return (
        dx * math.cos(angle) + dy * math.sin(angle),
        dy * math.cos(angle) - dx * math.sin(angle),
    )


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
    soak = np.array([0.45, 0.33, 0.22]) if rng.random() < 0.5 else [0.30, 0.32, 0.36]
    albedo = _tint(surface, rng.uniform(0.6, 0.8) * spot, surface.albedo * soak)
    changed = dataclasses.replace(surface, albedo=albedo)
    return changed, (spot > 0.25) & surface.mask


def contamination(rng: Rng, surface: Surface) -> Defective:
    """Foreign flakes lying close together: paint, plastic or mould."""
    colours = [
        (0.10, 0.22, 0.45),
        (0.50, 0.09, 0.07),
        (0.85, 0.85, 0.8),
        (0.2, 0.3, 0.12),
    ]
    near = _blot(rng, surface, rng.uniform(8, 11), 0.1)
    flakes = noise(rng, len(surface.top), 5.0, 3.0) + 2.2 * near
    spot = step(flakes, 1.35, 1.6) * (near > 0)
    spot = np.maximum(spot, step(near, 0.75, 0.8))
    colour = np.array(colours[rng.integers(len(colours))])
    changed = dataclasses.replace(surface, albedo=_tint(surface, 0.85 * spot, colour))
    return changed, (spot > 0.5) & surface.mask


def _deformed(rng: Rng, surface: Surface, depth: float) -> Defective:
    bell = step(_blot(rng, surface, rng.uniform(8, 11), 0.06), 0.0, 0.9)
    changed = dataclasses.replace(surface, top=surface.top + depth * bell)
    return changed, (bell > 0.15) & surface.mask


def dent(rng: Rng, surface: Surface) -> Defective:
    """A shallow depression without an edge."""
    return _deformed(rng, surface, -rng.uniform(2.5, 4))


def bump(rng: Rng, surface: Surface) -> Defective:
    """A shallow swelling without an edge."""
    return _deformed(rng, surface, rng.uniform(2.5, 4))


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
