"""A camera and a structured-light scanner for surfaces made of formulas.

`photograph` shades a surface (Lambert's diffuse term, Blinn's specular lobe, ambient
occlusion, a cast shadow) and adds a camera's noise; `scan` gives its depth with a
scanner's noise and without the pixels that such scanners miss: where the projector does
not reach, on steep flanks, and scattered ones. Lengths are millimetres unless a name
says metres.
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import fft, ndimage

FIELD = 100.0  # side of the square that camera and scanner see
DISTANCE = 450.0  # from the camera to the background plane
_GAMMA = np.round(255 * np.linspace(0, 1, 4096) ** (1 / 2.2)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Surface:
    """A part lying on the background plane, seen from above.

    Attributes:
      top: height of the part's upper side above the plane, continued smoothly past its
        outline so that the outline does not disturb the normals.
      inside: distance to the outline, positive inside the part.
      albedo: reflectance of red, green and blue, 0 to 1.
      gloss: strength of the specular lobe.
      relief: height of structure too fine for the scanner, seen only in the shading.
    """

    top: Float[np.ndarray, "s s"]
    inside: Float[np.ndarray, "s s"]
    albedo: Float[np.ndarray, "s s 3"]
    gloss: Float[np.ndarray, "s s"]
    relief: Float[np.ndarray, "s s"]

    @property
    def pixel(self) -> float:
        """Side of a pixel."""
        return FIELD / len(self.top)

    @property
    def mask(self) -> Bool[np.ndarray, "s s"]:
        """The pixels that show the part."""
        return self.inside > 0

    @property
    def height(self) -> Float[np.ndarray, "s s"]:
        """Height above the background plane, 0 beside the part."""
        return np.where(self.mask, self.top, 0)


def grid(size: int) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """Coordinates x (right) and y (down) of the pixels' centres, 0 in the middle."""
    axis = np.float32(((np.arange(size) + 0.5) / size - 0.5) * FIELD)
    x, y = np.meshgrid(axis, axis)
    return x, y


def rotate(
    x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"], angle: float
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """The coordinates in axes turned by `angle` (radians) from x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


@functools.lru_cache(maxsize=64)
def _amplitudes(size: int, scale: float, slope: float) -> Float[np.ndarray, "s f"]:
    pixel = FIELD / size
    fy, fx = np.fft.fftfreq(size, pixel)[:, None], np.fft.rfftfreq(size, pixel)
    amplitudes = (1 + (fx**2 + fy**2) * scale**2) ** (-slope / 2)
    amplitudes[0, 0] = 0
    # Columns 1 … n/2 − 1 of a real transform stand for two frequencies each.
    twice = np.where((fx == 0) | (fx == fx[-1]), 1, 2)
    unit = size / np.sqrt((twice * amplitudes**2).sum())
    return (amplitudes * unit * size / np.sqrt(2)).astype(np.float32)


def noise(
    rng: np.random.Generator, size: int, scale: float, slope: float = 3.0
) -> Float[np.ndarray, "s s"]:
    """Smooth Gaussian noise of variance 1 with a power-law spectrum.

    The amplitude is flat up to the frequency 1 / scale and falls beyond it with the
    exponent `slope`: 3 looks like clouds, 1.5 like grain.
    """
    white = rng.standard_normal((size, size // 2 + 1, 2), np.float32)
    spectrum = white.view(np.complex64)[..., 0] * _amplitudes(size, scale, slope)
    return fft.irfft2(spectrum, (size, size))


def smooth(values: Float[np.ndarray, "s s"], pixels: float) -> np.ndarray:
    """Blur by two box filters, about `pixels` wide; fast at any width."""
    width = max(1, round(pixels))
    for _ in range(2):
        values = ndimage.uniform_filter(values, width, mode="nearest")
    return values


def step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def photograph(
    surface: Surface, light: np.random.Generator, camera: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """The surface's photograph, lit from the upper left and from all around.

    Args:
      light: draws the lamp's direction and strength and the colour of the table.
      camera: draws the sensor's noise.
    """
    size, pixel = len(surface.top), surface.pixel
    lamp = _unit(np.array([-0.55, -0.65, 0.9]) + light.normal(0, 0.04, 3))
    ambient = light.normal(0.42, 0.015)
    lamp_colour = light.normal(1, 0.03) * np.float32(light.normal(1, 0.012, 3))

    slope_y, slope_x = np.gradient(surface.top + surface.relief, pixel)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = (lamp[2] - slope_x * lamp[0] - slope_y * lamp[1]) / length
    half = _unit(lamp + np.array([0, 0, 1], np.float32))
    mirror = (half[2] - slope_x * half[0] - slope_y * half[1]) / length
    height = surface.height
    hollow = np.clip(smooth(surface.top, 6 / pixel) - surface.top, 0, 6)
    occlusion = 1 / (1 + 0.35 * hollow)
    sky = ambient * (0.75 + 0.25 / length) * occlusion
    diffuse = 0.62 * np.clip(facing, 0, None) * occlusion**0.5
    specular = surface.gloss * np.clip(mirror, 0, 1) ** 24
    part = surface.albedo * (sky + diffuse)[..., None] + specular[..., None]

    table = light.normal(0.055, 0.004) * (1 + 0.1 * noise(light, size, 1.0, 1.5))
    reach = np.round(-lamp[1::-1] * 8 / pixel).astype(int)
    thrown = np.roll(smooth(np.minimum(height, 12) / 12, 7 / pixel), reach, (0, 1))
    table = (table * (1 - 0.75 * np.clip(thrown, 0, 1)))[..., None] * np.float32(
        [0.95, 1, 1.08]
    )

    coverage = np.clip(surface.inside / pixel + 0.5, 0, 1)[..., None]
    scene = lamp_colour * (part * coverage + table * (1 - coverage))
    return _expose(ndimage.gaussian_filter(scene, (0.6, 0.6, 0)), camera)


def _expose(
    scene: Float[np.ndarray, "s s 3"], camera: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    shot = np.sqrt(np.clip(scene, 0, None) * 1.5e-4 + 4e-6)
    signal = scene + shot * camera.standard_normal(scene.shape, np.float32)
    return _GAMMA[np.clip(4095 * signal, 0, 4095).astype(np.int16)]


def scan(surface: Surface, rng: np.random.Generator) -> Float[np.ndarray, "s s"]:
    """Depth in metres as a structured-light scanner gives it; 0 = missing."""
    size, pixel = len(surface.top), surface.pixel
    x, y = grid(size)
    tilt_x, tilt_y, offset = rng.normal(0, [0.006, 0.006, 2.0]).tolist()
    height = surface.height
    # The projector stands to the left: whatever lies below its grazing ray is dark.
    ray = height + 1.6 * x
    dark = ray < np.maximum.accumulate(ray, axis=1) - 0.6
    slope = np.hypot(*np.gradient(height, pixel))
    lost = rng.random((size, size), np.float32) < 0.004 + 0.5 * step(slope, 1.5, 5.0)
    lost |= ~surface.mask & (rng.random((size, size), np.float32) < 0.04)
    error = 0.06 * noise(rng, size, 4.0) + 0.08 * rng.standard_normal(
        (size, size), np.float32
    )
    depth = DISTANCE + offset - height + tilt_x * x + tilt_y * y + error
    return np.where(dark | lost, 0, depth / 1000).astype(np.float32)
