"""Time and peak memory of a backbone beside PyTorch, on this machine's CPU.

    python -m benchmarks.backbone [--quick] [--model=NAME] [--batch=N] [--size=PIXELS]

An EfficientNet to `blocks[5]` with random weights, in float32: the images' bytes
in, the features out. PyTorch (`pip install torch`, for this benchmark only) runs it
as timm does, in its default memory format and in channels_last, and the faster counts.
Both must compute the same features. Each has a process to itself, in turn with the
others and with a matrix product, whose speed is the machine's roof. Times are medians.
The last line is JSON.

Recorded on 2 cores with AVX-512, jax 0.10.2 beside torch 2.13.0, an image at 768 px:

    B5, batch 4      0.39 s beside 0.96 s    757 MB beside 1312 MB
    B5, batch 1      0.44 s beside 0.82 s    673 MB beside  708 MB
    Lite0, batch 8   0.09 s beside 0.27 s    588 MB beside 1558 MB
"""

import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import random_backbone
from benchmarks.common import Rival, Timing, compare, report, serve

LAYOUTS = ("contiguous", "channels_last")
STAGE = 5
TOLERANCE = 1e-4  # of the largest feature

_MODEL = flags.DEFINE_string("model", "tf_efficientnet_b5", "timm's name, no tag.")
_BATCH = flags.DEFINE_integer("batch", 4, "Images a call.")
_SIZE = flags.DEFINE_integer("size", 768, "Side of the images in pixels.")
_QUICK = flags.DEFINE_bool("quick", False, "One image a call and few rounds.")
_SERVE = flags.DEFINE_string("serve", "", "Of the benchmark's own processes: a folder.")


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratio."""
    if _SERVE.value:
        return serve_ours(Path(_SERVE.value))
    batch, rounds = (1, 3) if _QUICK.value else (_BATCH.value, 5)
    with tempfile.TemporaryDirectory() as folder:
        flops = describe(Path(folder), batch)
        timings, roof = run_rivals(Path(folder), rounds)
    torch = min(LAYOUTS, key=lambda layout: timings[layout].median_s["call"])
    ours_s, torch_s = (
        timings[name].median_s["call"] / batch for name in ("ours", torch)
    )
    print(f"{_MODEL.value}, batch {batch}, {_SIZE.value} px, {flops / 1e9:.1f} GFLOP")
    for name in ("ours", *LAYOUTS):
        rate = batch / timings[name].median_s["call"]
        print(f"  {name}: {rate:.2f} images/s, {timings[name].peak_mb:.0f} MB")
    print(f"  matrix product: {roof / 1e9:.0f} GFLOP/s")
    report(
        {
            "ours_s": ours_s,
            "torch_s": torch_s,
            "ratio": torch_s / ours_s,
            "roof_share": flops / ours_s / roof,
            "compile_s": timings["ours"].compile_s["call"],
            "peak_mb": timings["ours"].peak_mb,
            "torch_peak_mb": timings[torch].peak_mb,
            "torch_layout": torch,
            "batch": batch,
            "quick": _QUICK.value,
        }
    )
    return None


def describe(folder: Path, batch: int) -> float:
    """Writes the network, its weights and the images; FLOPs of one image."""
    net = random_backbone.write(folder, _MODEL.value, STAGE)
    shape = (batch, _SIZE.value, _SIZE.value, 3)
    np.save(
        folder / "images.npy", np.random.default_rng(0).integers(0, 256, shape, "u1")
    )
    return count_flops(net, _SIZE.value)


def count_flops(net, size: int) -> float:
    """Two a multiplication and addition, of an image's convolutions."""
    total = 0
    for conv in net.convs:
        size = -(-size // conv.stride)
        positions = 1 if ".se." in conv.key else size**2
        total += 2 * positions * np.prod(conv.shape)
    return float(total)


def run_rivals(folder: Path, rounds: int) -> tuple[dict[str, Timing], float]:
    """Times the rivals, whose features must agree, and the roof."""
    own = ("--serve", str(folder), "--model", _MODEL.value, "--size", str(_SIZE.value))
    with (
        Rival("benchmarks.backbone", *own) as ours,
        Rival("benchmarks.torch_efficientnet", str(folder), "contiguous") as contiguous,
        Rival("benchmarks.torch_efficientnet", str(folder), "channels_last") as last,
        Rival("benchmarks.common", "float32") as roof,
    ):
        check_agreement(folder)
        rivals = {"ours": ours, "contiguous": contiguous, "channels_last": last}
        timings = compare(rivals | {"roof": roof}, rounds)
        return timings, roof.facts["flops"] / timings["roof"].median_s["call"]


def check_agreement(folder: Path) -> None:
    """Ends the benchmark unless all have computed the same features."""
    ours = np.load(folder / "ours.npz")["call"]
    for layout in LAYOUTS:
        difference = np.abs(ours - np.load(folder / f"{layout}.npz")["call"]).max()
        if not difference <= TOLERANCE * np.abs(ours).max():
            raise SystemExit(f"features differ from PyTorch's by up to {difference}")


def serve_ours(folder: Path) -> None:
    """Serves the backbone of training."""
    import jax
    from ml_collections import ConfigDict

    from ast_jax import backbones

    config = ConfigDict(
        {
            "name": _MODEL.value,
            "weights": str(folder / "weights.safetensors"),
            "stage": STAGE,
            "padding": "same",
            "mean": (),
            "std": (),
        }
    )
    backbone = backbones.create(config, image_size=_SIZE.value)
    apply, variables = jax.jit(backbone.apply), jax.device_put(backbone.variables)
    del backbone  # and with it the arrays on the host
    images = np.load(folder / "images.npy")
    serve(lambda: np.asarray(apply(variables, images)), keep=folder / "ours.npz")


if __name__ == "__main__":
    app.run(main)
