"""Weights from a file or the hub are used only if every tensor exists and is sound."""

import hashlib
import http.server
import threading

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from ml_collections import ConfigDict
from safetensors.numpy import save, save_file
from stand_in_weights import state_dict
from torch_files import state_dict_file

from ast_jax import backbones
from ast_jax.backbones import timm_weights
from ast_jax.backbones.architecture import architecture
from ast_jax.errors import UserError

NAME = "tf_efficientnet_lite0"
NET = architecture(NAME, 0)  # two blocks' worth of tensors: small files
TENSORS = {key: state_dict(NAME)[key] for key in timm_weights.tensor_shapes(NET)}
EXPECTED = timm_weights.fold(NET, TENSORS.get)


def write(path, tensors):
    save_file({key: np.ascontiguousarray(t) for key, t in tensors.items()}, path)
    return path


def same_variables(got):
    return jax.tree.all(jax.tree.map(np.array_equal, got, EXPECTED))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(
        timm_weights.logging, "info", lambda text, *values: lines.append(text % values)
    )
    return lines


def test_a_sound_file_gives_the_folded_tensors(file):
    assert same_variables(timm_weights.load(write(file, TENSORS), NET))


def test_half_precision_files_are_read(file):
    half = {key: tensor.astype(np.float16) for key, tensor in TENSORS.items()}
    got = timm_weights.load(write(file, half), NET)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3), got, EXPECTED
    )


def test_unused_tensors_are_named_in_the_log(file, log):
    unused = {"classifier.bias": np.zeros(3), "blocks.1.0.conv_pw.weight": np.zeros(3)}
    assert same_variables(timm_weights.load(write(file, TENSORS | unused), NET))
    assert "2 tensors unused: blocks.1.0.conv_pw.weight, classifier.bias" in log[0]


def test_missing_and_misfitting_tensors_are_named(file):
    tensors = dict(TENSORS)
    del tensors["bn1.bias"], tensors["blocks.0.0.conv_dw.weight"]
    tensors["conv_stem.weight"] = np.zeros((32, 3, 5, 5), np.float32)
    with pytest.raises(UserError) as error:
        timm_weights.load(write(file, tensors), NET)
    for part in (
        str(file),
        "no bn1.bias, blocks.0.0.conv_dw.weight",
        "conv_stem.weight [32, 3, 5, 5] instead of [32, 3, 3, 3]",
        "2 tensors missing, 1 of another shape",
    ):
        assert part in str(error.value)


def test_another_networks_weights_are_refused(file):
    tensors = state_dict("tf_efficientnet_b0")
    with pytest.raises(UserError, match="not the weights"):
        timm_weights.load(write(file, tensors), architecture("tf_efficientnet_b1", 5))


@pytest.mark.parametrize("suffix", [".bin", ".npz", ""])
def test_other_kinds_of_file_are_refused(tmp_path, suffix):
    with pytest.raises(UserError, match=r"no \.safetensors or \.pth file"):
        timm_weights.load(tmp_path / f"weights{suffix}", NET)


def damaged_header(rng, data):
    """One byte of the header, or of its length, is changed."""
    length = 8 + int.from_bytes(data[:8], "little")
    position = rng.integers(length)
    changed = bytearray(data)
    changed[position] ^= rng.integers(1, 256)
    return bytes(changed)


def truncated(rng, data):
    return data[: rng.integers(len(data))]


def renamed(rng, data):
    key = rng.choice(list(TENSORS))
    other = key.replace("weight", "wieght").replace("bias", "bais")
    other = other if other != key else key + "_"
    return save({other if k == key else k: t for k, t in TENSORS.items()})


def reshaped(rng, data):
    key = rng.choice(list(TENSORS))
    tensor = TENSORS[key]
    shapes = [(*tensor.shape, 1), (1, *tensor.shape), (tensor.size // 2, 2)]
    return save(TENSORS | {key: tensor.reshape(shapes[rng.integers(len(shapes))])})


def not_finite(rng, data):
    key = rng.choice(list(TENSORS))
    tensor = TENSORS[key].copy()
    tensor.flat[rng.integers(tensor.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return save(TENSORS | {key: tensor})


def other_type(rng, data):
    key = rng.choice(list(TENSORS))
    return save(TENSORS | {key: TENSORS[key].view(np.int32)})


def negative_variance(rng, data):
    key = rng.choice([key for key in TENSORS if key.endswith("running_var")])
    return save(TENSORS | {key: -TENSORS[key]})


DAMAGES = (
    damaged_header,
    truncated,
    renamed,
    reshaped,
    not_finite,
    other_type,
    negative_variance,
)


def test_a_thousand_damaged_files_never_give_wrong_weights(file):
    """Each gives a clear error, unless the flipped byte changes nothing."""
    rng, harmless = np.random.default_rng(0), 0
    data = save(TENSORS)
    for n in range(1000):
        file.write_bytes(DAMAGES[n % len(DAMAGES)](rng, data))
        try:
            got = timm_weights.load(file, NET)
        except UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            continue
        assert same_variables(got)
        harmless += 1
    assert harmless <= 5


def test_pth_gives_the_same_variables(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(state_dict_file(TENSORS))
    assert same_variables(timm_weights.load(path, NET))


def test_a_missing_file_is_named_with_the_ways_out(tmp_path):
    with pytest.raises(
        UserError, match=r"no file .*none\.pth.*weights=PATH.*scattering"
    ):
        timm_weights.locate(NAME, str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["tf_efficientnet_b5", "tf_efficientnet_b5.best"])
def test_a_name_without_known_tag_needs_a_file(name, file):
    with pytest.raises(UserError) as error:
        timm_weights.locate(name, "")
    assert "tf_efficientnet_b5.aa_in1k" in str(error.value)
    assert "tf_efficientnet_b0.aa_in1k" not in str(error.value)
    assert timm_weights.locate(name, str(write(file, TENSORS))) == file


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("tf_efficientnet_b5.aa_in1k", 0.485),
        ("tf_efficientnet_b5.ap_in1k", 0.5),
        ("tf_efficientnet_lite4.in1k", 0.5),
        ("tf_efficientnet_lite4", 0.5),
        ("tf_efficientnet_b5", 0.485),
    ],
)
def test_normalisation_follows_the_tag(name, mean):
    assert timm_weights.normalisation(name)[0][0] == mean


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a large file; `announced` is the digest it names."""

    content, announced = b"", ""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{self.announced}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *values):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in hub on this machine, and an empty cache."""
    content = save(TENSORS)
    digest = hashlib.sha256(content).hexdigest()
    handler = type("Handler", (Hub,), {"content": content, "announced": digest})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        constants.ENDPOINT, address
    )
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_tag_is_fetched_from_the_hub_and_cached(hub, monkeypatch):
    path = timm_weights.locate(f"{NAME}.in1k", "")
    assert same_variables(timm_weights.load(path, NET))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert timm_weights.locate(f"{NAME}.in1k", "") == path


def test_a_download_unlike_its_announcement_is_refused(hub):
    hub.announced = "0" * 64
    section = {"name": f"{NAME}.in1k", "weights": "", "stage": 0, "padding": "same"}
    with pytest.raises(UserError, match=r"SHA-256 that the hub announces; delete"):
        backbones.create(ConfigDict(section), image_size=64)
    with pytest.raises(UserError, match=r"SHA-256 that the hub announces; delete"):
        timm_weights.fetch_by_sha256(NAME, hub.announced)


def test_a_release_is_hashed_once(hub, monkeypatch):
    hashed = []
    digest = timm_weights.sha256
    monkeypatch.setattr(
        timm_weights, "sha256", lambda path: hashed.append(path) or digest(path)
    )
    section = {"name": f"{NAME}.in1k", "weights": "", "stage": 0, "padding": "same"}
    config = ConfigDict(section | {"mean": (), "std": ()})
    assert backbones.create(config, image_size=64).weights_sha256 == hub.announced
    assert hashed == [timm_weights.locate(config.name, "")]


def test_without_a_network_one_line_says_what_to_do(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        timm_weights.locate(f"{NAME}.in1k", "")
    message = str(error.value)
    assert f"timm/{NAME}.in1k" in message and "\n" not in message
    assert "--config.backbone.weights=PATH" in message
    assert "--config.backbone.name=scattering" in message


def test_a_release_is_found_by_its_sha256(hub):
    sha256 = hub.announced
    path = timm_weights.fetch_by_sha256(NAME, sha256)
    assert timm_weights.sha256(path) == sha256
    assert timm_weights.cached_releases() == [path]
    assert timm_weights.fetch_by_sha256(NAME, "0" * 64) is None


def test_a_silent_hub_is_given_up(hub, monkeypatch):
    """It accepts the connection and never answers; the test shortens the 8 s."""
    ended = threading.Event()
    monkeypatch.setattr(hub, "do_HEAD", lambda self: ended.wait())
    monkeypatch.setattr(timm_weights, "_PATIENCE", 0.05)
    with pytest.raises(UserError, match=f"timm/{NAME}.in1k .*"):
        timm_weights.locate(f"{NAME}.in1k", "")
    ended.set()


def test_without_a_home_folder_the_cache_is_not_put_into_one_called_tilde(
    hub, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(UserError, match="HF_HOME"):
        timm_weights.locate(f"{NAME}.in1k", "")
