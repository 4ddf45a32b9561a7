"""Wavelet scattering: a backbone without weights (Mallat 2012; Bruna & Mallat 2013).

Complex Morlet wavelets ψ over 5 octaves and 6 angles filter the image, and the modulus
is taken. Wavelets filter the result once more, and a Gaussian φ of a cell's size
averages it:  S0 = x∗φ,  S1 = |x∗ψ1|∗φ,  S2 = ||x∗ψ1|∗ψ2|∗φ,  then log(1 + S/floor).

The channels. Luminance has S1 for every wavelet, and S2 towards coarser octaves at the
parallel and the orthogonal angle. On MVTec 3D-AD's cable_gland (512 px, nearest patch)
these ranked defects as well as all pairs of 6 angles, which are three times as many,
and better than all pairs of 4. Two opponent colours have S1 averaged over angles,
without the finest octave, of which cameras and JPEG keep little. With the means S0
these are 161 channels; the teacher's cost grows with their number. The floor is a
quarter of a grey level; smaller values are the camera's noise.

kymatio's JAX frontend has the same filters. We do not use it: release 0.3.0 fails to
import beside SciPy 1.17 (`scipy.special.sph_harm` is gone), needs two more packages,
makes its filters in Python loops (54 s for 768 px, here 2 s), keeps a whole batch in
memory, computes every pair of angles, and averages around a cell's corner, half a cell
off the depth and the score map. With 4 angles and all pairs it took 0.56 s for the
luminance of an image of 768 px on two cores; this module took 0.24 s for three colours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, UInt8
from ml_collections import ConfigDict

from ast_jax.backbones.backbone import Backbone, fingerprint
from ast_jax.errors import UserError

SCALES = 5
FINE_SCALES = 3  # octaves of the first tap, where there are two
ANGLES = 6
TURNS = (0, ANGLES // 2)  # from the first wavelet's angle to the second's: 0° and 90°
STRIDE = 2**SCALES
# Pixels between an octave's samples: the largest step with little aliasing; at coarse
# octaves, where samples are cheap, half of it.
STEPS = (1, 2, 4, 4, 8)
MARGIN = 64  # reflected pixels beyond each border: 5 σ of the widest wavelet
FLOOR = 1e-3  # of an image in 0..1

# kymatio's values of the finest wavelet's σ and frequency, and of the ratio of an
# envelope's widths along and across the waves.
SIGMA = 0.8
FREQUENCY = 0.75 * np.pi
SLANT = 4 / ANGLES
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
COLOURS = ("luminance", "red-green", "yellow-blue")


@dataclasses.dataclass(frozen=True)
class Path:
    """The filters of one channel.

    Attributes:
      colour: one of `COLOURS`.
      scales: octave of each wavelet, 0 the finest; () for the mean S0.
      angles: degrees of each wave's direction, from the columns' towards the rows'
        (0: vertical stripes); () if a channel has no angle or the mean of all.
    """

    colour: str
    scales: tuple[int, ...] = ()
    angles: tuple[int, ...] = ()


def create(config: ConfigDict, *, image_size: int, split: bool = False) -> Backbone:
    """The scattering backbone for square images of one size, stride 32.

    Args:
      config: the `backbone` section; weights must be empty, and the options of networks
        (stage, padding, mean, std) are ignored.
      image_size: side of the images in pixels.
      split: make two taps, see `split_octaves`, instead of one.

    Raises:
      UserError: the section has weights, or the size is not a multiple of the stride.
    """
    if config.get("weights"):
        raise UserError(
            f"backbone.weights: {config.weights}: scattering has none, leave it empty"
        )
    if image_size <= 0 or image_size % STRIDE:
        raise UserError(
            f"dataset.image_size: {image_size} is not a multiple of scattering's stride"
            f" {STRIDE}"
        )
    variables = {"wavelets": wavelets(image_size), "averages": averages(image_size)}
    constants = {
        "scales": SCALES,
        "angles": ANGLES,
        "turns": TURNS,
        "steps": STEPS,
        "margin": MARGIN,
        "floor": FLOOR,
        "morlet": (SIGMA, FREQUENCY, SLANT),
        "opponent": OPPONENT,
        "paths": [dataclasses.astuple(path) for path in paths()],
    }
    taps, apply = (len(paths()),), scatter
    if split:
        fine, coarse = split_octaves()
        order, taps = np.array(fine + coarse), (len(fine), len(coarse))
        constants["order"] = order.tolist()

        def apply(variables, images):
            return scatter(variables, images)[..., order]

    return Backbone(
        name="scattering",
        channels=len(paths()),
        stride=STRIDE,
        fingerprint=fingerprint(name="scattering", image_size=image_size, **constants),
        variables=jax.tree.map(jnp.asarray, variables),
        apply=apply,
        standardise=True,
        taps=taps,
    )


def paths() -> tuple[Path, ...]:
    """The filters of each channel, in the channels' order."""
    step = 180 // ANGLES
    turned = [
        (a * step, (a + turn) % ANGLES * step) for turn in TURNS for a in range(ANGLES)
    ]
    scales = range(SCALES)
    means = [Path(colour) for colour in COLOURS]
    first = [Path(COLOURS[0], (j,), (a * step,)) for j in scales for a in range(ANGLES)]
    second = [
        Path(COLOURS[0], (j, k), angles)
        for j in scales
        for k in scales[j + 1 :]
        for angles in turned
    ]
    colour = [Path(colour, (j,)) for j in scales[1:] for colour in COLOURS[1:]]
    return (*means, *first, *second, *colour)


def split_octaves() -> tuple[list[int], list[int]]:
    """The channels whose widest wavelet is of octave 0 to 2, and all others.

    They correspond to two stages of a network: waves of up to 8 pixels; wider ones and
    the means.
    """
    fine = [
        channel
        for channel, path in enumerate(paths())
        if path.scales and max(path.scales) < FINE_SCALES
    ]
    return fine, [channel for channel in range(len(paths())) if channel not in fine]


def wavelets(image_size: int) -> list[Float[np.ndarray, "angles m m"]]:
    """The Fourier transforms of the Morlet wavelets, real, one array for each octave.

    ψ(u) = g(u)·(exp(iξ·u) − κ), where the Gaussian g has σ = 0.8·2^j along the wave and
    σ/slant across, |ξ| = 0.75π/2^j, and κ makes the mean zero. Frequency 0 is in the
    middle, and the array is cut to the band in which octave j is not zero, ±2π/2^j.
    """
    side = image_size + 2 * MARGIN
    return [_octave(side, j).astype(np.float32) for j in range(SCALES)]


def _octave(side: int, j: int) -> Float[np.ndarray, "angles m m"]:
    m = side // 2 ** max(j - 1, 0)
    frequencies = 2 * np.pi / side * np.arange(-m // 2, m // 2, dtype=np.float32)
    rows, columns = frequencies[:, None], frequencies[None, :]
    filters = []
    for angle in np.pi / ANGLES * np.arange(ANGLES):
        gabor = _gaussian(rows, columns, angle, j, FREQUENCY / 2**j)
        gaussian = _gaussian(rows, columns, angle, j, 0.0)
        kappa = gabor[m // 2, m // 2] / gaussian[m // 2, m // 2]
        filters.append(gabor - kappa * gaussian)
    return np.stack(filters)


def _gaussian(
    rows: Float[np.ndarray, "m 1"],
    columns: Float[np.ndarray, "1 m"],
    angle: float,
    j: int,
    centre: float,
) -> Float[np.ndarray, "m m"]:
    """A Gaussian around frequency `centre` at an angle; 2π-periodic."""
    cos, sin, sigma = np.cos(angle), np.sin(angle), SIGMA * 2**j
    total = np.zeros((rows.size, columns.size), np.float32)
    periods = (-2 * np.pi, 0, 2 * np.pi) if j < 2 else (0,)
    for row_shift in periods:
        for column_shift in periods:
            y, x = rows + row_shift, columns + column_shift
            along, across = x * cos + y * sin - centre, (y * cos - x * sin) / SLANT
            total += np.exp(-0.5 * sigma**2 * (along**2 + across**2))
    return total


def averages(image_size: int) -> list[Float[np.ndarray, "h m"]]:
    """The low-pass φ with its stride: one matrix A for each octave averages as A·U·Aᵀ.

    A row is the Gaussian around a cell's centre at the octave's samples, with sum 1.
    Near the image's border it reaches into the reflected margin.
    """
    centres = STRIDE * (np.arange(image_size // STRIDE) + 0.5) - 0.5
    sigma = SIGMA * 2 ** (SCALES - 1)
    matrices = []
    for step in STEPS:
        pixels = np.arange(-MARGIN, image_size + MARGIN, step)
        weights = np.exp(-0.5 * ((pixels - centres[:, None]) / sigma) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        matrices.append(weights.astype(np.float32))
    return matrices


def scatter(
    variables: dict[str, Any], images: UInt8[Array, "b h w 3"]
) -> Float[Array, "b i j c"]:
    """The scattering coefficients of square images, channels as in `paths`.

    Computes one image at a time, so that memory does not grow with the batch.

    Args:
      variables: "wavelets" and "averages", for the images' size.
      images: RGB.
    """
    return jax.lax.map(lambda image: _scatter_one(variables, image), images)


def _scatter_one(
    variables: dict[str, Any], image: UInt8[Array, "h w 3"]
) -> Float[Array, "i j c"]:
    psi, phi = variables["wavelets"], variables["averages"]
    planes = jnp.tensordot(
        jnp.array(OPPONENT), image / 255.0, (1, 2), precision=jax.lax.Precision.HIGHEST
    )
    border = (MARGIN, MARGIN)
    planes = jnp.pad(planes, ((0, 0), border, border), mode="reflect")
    spectra = _spectrum(planes)

    def modulus(spectrum, j, turn=0):
        turned = jnp.roll(psi[j], -turn, axis=0)
        return _modulus(spectrum, turned, phi[j].shape[-1])

    means = _average(planes, phi[0])
    first, second = [], []
    for j in range(SCALES):
        u = modulus(spectra[0], j)
        first.append(_average(u, phi[j]))
        spectrum = _spectrum(u)
        second += [
            _average(modulus(spectrum, k, turn), phi[k])
            for k in range(j + 1, SCALES)
            for turn in TURNS
        ]
    colour = [
        _average(modulus(spectra[1:, None], j).mean(axis=1), phi[j])
        for j in range(1, SCALES)
    ]
    waves = jnp.log1p(jnp.concatenate(first + second + colour) / FLOOR)
    return jnp.moveaxis(jnp.concatenate([means, waves]), 0, -1)


def _spectrum(u: Float[Array, "... n n"]) -> Complex[Array, "... n n"]:
    """The Fourier coefficients of a real map, frequency 0 in the middle."""
    return jnp.fft.fftshift(jnp.fft.fft2(u, norm="forward"), axes=(-2, -1))


def _modulus(
    spectrum: Complex[Array, "... n n"], psi: Float[Array, "a m m"], samples: int
) -> Float[Array, "... p p"]:
    """|u∗ψ| from u's spectrum, p = `samples` a side.

    Multiplies only the wavelet's band. If that is twice as wide as the samples need,
    its halves are added, which takes every second sample in space (periodisation).
    Frequency 0 stays in the middle; this only alternates the signs of neighbouring
    samples, which the modulus removes.
    """
    n, m = spectrum.shape[-1], psi.shape[-1]
    band = slice((n - m) // 2, (n + m) // 2)
    product = spectrum[..., band, band] * psi
    if samples < m:
        halves = (2, samples, 2, samples)
        product = product.reshape(*product.shape[:-2], *halves).sum(axis=(-4, -2))
    return jnp.abs(jnp.fft.ifft2(product, norm="forward"))


def _average(
    u: Float[Array, "a m m"], phi: Float[Array, "h m"]
) -> Float[Array, "a h h"]:
    return jnp.einsum(
        "ip,apq,jq->aij", phi, u, phi, precision=jax.lax.Precision.HIGHEST
    )
