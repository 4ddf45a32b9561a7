import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ast_jax import backbones
from ast_jax.backbones import scattering
from ast_jax.errors import UserError

SIZE = 128
CONFIG = ConfigDict({"name": "scattering", "weights": "", "stage": 5})
PATHS = scattering.paths()
WAVES = slice(3, None)  # after the three means


@pytest.fixture(scope="module")
def backbone():
    return scattering.create(CONFIG, image_size=SIZE)


def compiled(backbone, batch):
    images = jax.ShapeDtypeStruct((batch, SIZE, SIZE, 3), np.uint8)
    return jax.jit(backbone.apply).lower(backbone.variables, images).compile()


@pytest.fixture(scope="module")
def single(backbone):
    return compiled(backbone, 1)


@pytest.fixture(scope="module")
def batch_of_six(backbone):
    return compiled(backbone, 6)


@pytest.fixture(scope="module")
def scatter(backbone, single):
    """One image [h,w,3] → its map [i,j,c]."""
    return lambda image: np.asarray(single(backbone.variables, image[None])[0])


@pytest.fixture(scope="module")
def texture():
    """An image like a natural one, larger than SIZE: noise with a 1/f spectrum."""
    side = 2 * SIZE
    noise = np.random.default_rng(0).normal(size=(side, side, 3))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    filtered = np.fft.fft2(noise, axes=(0, 1)) / (frequency + 0.02)[..., None]
    image = np.fft.ifft2(filtered, axes=(0, 1)).real
    return np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.uint8)


def grating(angle, frequency, size=SIZE):
    rows, columns = np.mgrid[:size, :size]
    radians = np.deg2rad(angle)
    phase = frequency * (columns * np.cos(radians) + rows * np.sin(radians))
    wave = 128 + 100 * np.cos(phase)
    return np.repeat(wave[..., None], 3, axis=-1).astype(np.uint8)


def channels(length, colour="luminance"):
    return [
        i for i, p in enumerate(PATHS) if len(p.scales) == length and p.colour == colour
    ]


def direct_wavelets(side):
    """{(octave, degrees): Fourier transform} of Morlet wavelets made in space."""
    grid = np.fft.fftfreq(side) * side  # 0, 1, …, −2, −1: no wavelet reaches round
    found = {}
    for j in range(5):
        sigma, frequency = 0.8 * 2**j, 0.75 * np.pi / 2**j
        for angle in range(0, 180, 30):
            cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            along = grid[None, :] * cos + grid[:, None] * sin
            across = grid[:, None] * cos - grid[None, :] * sin
            gaussian = np.exp(-0.5 * (along**2 + (across * 2 / 3) ** 2) / sigma**2)
            gaussian *= 2 / 3 / (2 * np.pi * sigma**2)
            gabor = gaussian * np.exp(1j * frequency * along)
            morlet = gabor - gabor.sum() / gaussian.sum() * gaussian
            found[j, angle] = np.fft.fft2(morlet)
    return found


def direct_scattering(image):
    """The definition in float64: every convolution at full resolution."""
    size, margin = image.shape[0], 64
    x = image.astype(np.float64) / 255
    red, green, blue = np.moveaxis(x, -1, 0)
    planes = {
        "luminance": (red + green + blue) / 3,
        "red-green": (red - green) / 2,
        "yellow-blue": (red + green) / 4 - blue / 2,
    }
    planes = {k: np.pad(v, margin, mode="reflect") for k, v in planes.items()}
    filters = direct_wavelets(size + 2 * margin)
    centres = 32 * np.arange(size // 32) + 15.5
    pixels = np.arange(-margin, size + margin)
    low = np.exp(-0.5 * ((pixels - centres[:, None]) / 12.8) ** 2)
    low /= low.sum(axis=1, keepdims=True)

    def modulus(u, j, angle):
        return np.abs(np.fft.ifft2(np.fft.fft2(u) * filters[j, angle]))

    def coefficient(path):
        u = planes[path.colour]
        if not path.scales:
            return low @ u @ low.T
        if not path.angles:
            turns = range(0, 180, 30)
            u = np.mean([modulus(u, path.scales[0], angle) for angle in turns], axis=0)
        for j, angle in zip(path.scales, path.angles, strict=False):
            u = modulus(u, j, angle)
        return np.log1p(low @ u @ low.T / 1e-3)

    return np.stack([coefficient(path) for path in PATHS], axis=-1)


def test_agrees_with_the_definition_computed_directly(scatter, texture):
    image = texture[:SIZE, :SIZE]
    expected = direct_scattering(image)
    actual = scatter(image)
    assert expected[..., WAVES].std() > 0.5
    finest = [i for i, p in enumerate(PATHS) if p.scales in ((), (0,))]
    np.testing.assert_allclose(actual[..., finest], expected[..., finest], atol=2e-4)
    np.testing.assert_allclose(actual, expected, atol=0.05)
    assert np.abs(actual - expected).mean() < 2e-3


def test_map_has_stride_32_and_one_channel_a_path(backbone, scatter, texture):
    features = scatter(texture[:SIZE, :SIZE])
    assert features.shape == (SIZE // 32, SIZE // 32, backbone.channels)
    assert features.dtype == np.float32
    assert backbone.stride == 32
    assert backbone.channels == len(PATHS) == len(set(PATHS)) == 161
    assert backbone.standardise


def test_registry_creates_it_by_name():
    assert backbones.create(CONFIG, image_size=32).name == "scattering"


def test_littlewood_paley_sum_covers_the_plane_without_gain():
    side = SIZE + 2 * scattering.MARGIN
    total = np.zeros((side, side))
    for octave in scattering.wavelets(SIZE):
        border = (side - octave.shape[-1]) // 2
        energy = np.pad((octave**2).sum(axis=0), border)
        mirrored = np.roll(energy[::-1, ::-1], 1, axis=(0, 1))
        total += (energy + mirrored) / 2
    omega = 2 * np.pi * np.fft.fftshift(np.fft.fftfreq(side))
    radius = np.hypot(omega[:, None], omega)
    total += np.exp(-((12.8 * radius) ** 2))
    assert total.max() < 1.01
    assert total[radius < np.pi].min() > 0.3


def test_wavelets_have_zero_mean_and_nothing_beyond_their_band():
    for j, octave in enumerate(scattering.wavelets(SIZE)):
        middle = octave.shape[-1] // 2
        np.testing.assert_allclose(octave[:, middle, middle], 0, atol=1e-7)
        if j > 0:  # the finest octave's band has all frequencies
            assert np.abs(octave[:, [0, -1], :]).max() < 0.02
            assert np.abs(octave[:, :, [0, -1]]).max() < 0.02


def test_constant_image_has_means_only(scatter):
    colour = np.array([200, 100, 50])
    features = scatter(np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.uint8))
    red, green, blue = colour / 255
    means = [(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2]
    np.testing.assert_allclose(
        features[..., :3], np.broadcast_to(means, (4, 4, 3)), atol=1e-6
    )
    np.testing.assert_allclose(features[..., WAVES], 0, atol=1e-3)


@pytest.mark.parametrize("angle", range(0, 180, 30))
@pytest.mark.parametrize("octave", [0, 2])
def test_grating_responds_in_its_own_octave_and_angle(scatter, octave, angle):
    features = scatter(grating(angle, 0.75 * np.pi / 2**octave)).mean(axis=(0, 1))
    first = channels(1)
    strongest = PATHS[first[int(features[first].argmax())]]
    assert (strongest.scales, strongest.angles) == ((octave,), (angle,))


def test_modulated_grating_responds_at_second_order(scatter):
    """Fine vertical stripes whose contrast has waves down the image: 0°, then 90°."""
    carrier = grating(0, 0.75 * np.pi) - 128.0
    envelope = 0.5 + 0.5 * (grating(90, 0.75 * np.pi / 8) - 128.0) / 100
    image = (128 + carrier * envelope).astype(np.uint8)
    features = scatter(image).mean(axis=(0, 1))
    second = [i for i in channels(2) if PATHS[i].scales[0] == 0]
    strongest = PATHS[second[int(features[second].argmax())]]
    assert (strongest.scales, strongest.angles) == ((0, 3), (0, 90))


def test_grey_image_has_no_colour(scatter):
    features = scatter(grating(30, 0.5))
    for colour in ("red-green", "yellow-blue"):
        for length in (0, 1):
            index = channels(length, colour)
            np.testing.assert_allclose(features[..., index], 0, atol=1e-3)


def test_shift_by_the_stride_shifts_the_map(scatter, texture):
    here = scatter(texture[:SIZE, :SIZE])
    there = scatter(texture[:SIZE, 32 : 32 + SIZE])
    same = np.abs(here[1:3, 2] - there[1:3, 1])  # a cell or more from every border
    neighbours = np.abs(here[1:3, 2] - here[1:3, 1])
    assert same.mean() < 0.1 * neighbours.mean()


def test_small_shift_changes_little(scatter, texture):
    here = scatter(texture[:SIZE, :SIZE])
    there = scatter(texture[1 : SIZE + 1, 1 : SIZE + 1])
    neighbours = np.abs(here[:, 1:] - here[:, :-1])
    assert np.abs(here - there).mean() < 0.25 * neighbours.mean()


def test_mirror_image_has_the_mirrored_map(scatter, texture):
    """Cells are averaged around their centres, and no border is special."""
    image = texture[:SIZE, :SIZE]
    swapped = [
        PATHS.index(
            scattering.Path(p.colour, p.scales, tuple(-a % 180 for a in p.angles))
        )
        for p in PATHS
    ]
    mirrored = scatter(np.ascontiguousarray(image[:, ::-1]))
    np.testing.assert_allclose(
        mirrored[:, ::-1], scatter(image)[..., swapped], atol=0.06
    )


def test_borders_do_not_ring(scatter):
    """Dark left, bright right: a periodic image would have an edge at its borders."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, SIZE // 2 :] = 255
    response = np.expm1(scatter(image)[..., channels(1)]).sum(axis=-1)
    assert response[:, [0, -1]].max() < 0.1 * response[:, 1:3].min()


def test_batch_is_its_images_one_by_one_and_deterministic(
    backbone, batch_of_six, scatter, texture
):
    images = np.stack([texture[i : i + SIZE, :SIZE] for i in range(0, 60, 10)])
    batch = np.asarray(batch_of_six(backbone.variables, images))
    again = np.asarray(batch_of_six(backbone.variables, images))
    np.testing.assert_array_equal(batch, again)
    np.testing.assert_allclose(batch, [scatter(image) for image in images], atol=1e-4)


def test_memory_does_not_grow_with_the_batch(single, batch_of_six):
    def temporary(executable):
        return executable.memory_analysis().temp_size_in_bytes

    # The loop over images holds copies of the filters, about as large as one image's.
    assert temporary(batch_of_six) < 3 * temporary(single)


def test_fingerprint_depends_on_size(backbone):
    again = scattering.create(CONFIG, image_size=SIZE)
    other_size = scattering.create(CONFIG, image_size=32)
    assert again.fingerprint == backbone.fingerprint
    assert other_size.fingerprint != backbone.fingerprint
    assert len(backbone.fingerprint) == 64


def test_weights_are_refused():
    config = ConfigDict({"name": "scattering", "weights": "some.safetensors"})
    with pytest.raises(UserError, match="scattering has none"):
        scattering.create(config, image_size=SIZE)


@pytest.mark.parametrize("size", [0, 100, -32])
def test_size_that_is_no_multiple_of_the_stride_is_refused(size):
    with pytest.raises(UserError, match=f"image_size: {size} is not a multiple"):
        scattering.create(CONFIG, image_size=size)
