"""The parts of `benchmarks.accelerator`, each with its time limit.

A part is a function without arguments that returns rows; --quick makes it small.
"""

import dataclasses
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import side_by_side
from benchmarks.accelerator_job import category_job, pixels_job, scoring_job, steps_job
from benchmarks.accelerator_row import Row
from benchmarks.accelerator_training import (
    one_category,
    one_plus_category,
    profile,
    several_devices,
    ten_categories,
)
from benchmarks.side_by_side import LAYOUTS, QUICK, Job

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part: its question, its function, its time limit in seconds."""

    question: str
    function: Callable[[], list[Row]]
    limit_s: float

    def measure(self) -> Rows:
        """The rows as JSON has them."""
        return [dataclasses.asdict(row) for row in self.function()]


def machine() -> list[Row]:
    """The devices, their number, and the versions of libraries."""
    import flax
    import jax
    import jaxlib

    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [
        Row("device", device.device_kind),
        Row("devices", float(jax.device_count())),
        Row("memory", stats.get("bytes_limit", memory) / 2**30, "GiB"),
        Row("platform", f"{jax.default_backend()}, {device.client.platform_version}"),
        Row(
            "versions",
            f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
            f"flax {flax.__version__}, Python {platform.python_version()}",
        ),
    ]


def steps() -> list[Row]:
    """Train steps of both networks: time, rate, share of a large product's rate."""
    rows = []
    for network in ("teacher", "student"):
        work = steps_job(network)
        flops = work.batch * work.step_flops()[network]
        found = side_by_side.run(work, ()).figures(units=work.steps, flops=flops)
        rows += [
            Row(f"{network} step", 1e3 * found["ours_s"], "ms"),
            Row(f"{network} step, rate", flops / found["ours_s"] / 1e12, "TFLOP/s"),
            Row(f"{network} step, share of a product's rate", found["roof_share"]),
            Row(f"{network} step, compilation", found["compile_s"], "s"),
        ]
    rate = found["roof_gflops"] / 1e3
    return [*rows, Row("a large bfloat16 product's rate", rate, "TFLOP/s")]


def scoring() -> list[Row]:
    """Scores from features that lie on the host."""
    return _speeds("scoring from features", scoring_job(), "< 3 ms")


def pixels() -> list[Row]:
    """From pixels to map and score: B5 with random weights, teacher, student."""
    return _speeds("from pixels (B5)", pixels_job(), "< 12 ms")


def _speeds(name: str, work: Job, aim: str) -> list[Row]:
    """The latency of an image alone, and the images a second of larger batches.

    Args:
      name: of the work.
      work: with `batches`.
      aim: of the latency.
    """
    outcome, rows = side_by_side.run(work, ()), []
    for batch in work.batches:
        seconds = outcome.figures(str(batch), units=batch, flops=1.0)["ours_s"]
        if batch == 1:
            rows.append(Row(f"{name}, an image alone", 1e3 * seconds, "ms", aim))
        else:
            rows.append(Row(f"{name}, {batch} at a time", 1 / seconds, "images/s"))
    return rows


def parity() -> list[Row]:
    """Errors on this device against the recorded arrays, by precision."""
    from benchmarks import device_parity

    return [Row(*row) for row in device_parity.errors()]


def pytorch() -> list[Row]:
    """PyTorch's time beside ours, eager and compiled."""
    if importlib.util.find_spec("torch") is None:
        return [Row("PyTorch is not installed", None)]
    if not _torch_sees_device():
        return [Row("PyTorch sees no device of this kind", None)]
    few = 2 if QUICK.value else 12
    works = {
        "teacher step": steps_job("teacher"),
        "student step": steps_job("student"),
        f"training of {few} epochs": dataclasses.replace(category_job(), epochs=few),
        "scoring from features": scoring_job(),
        "from pixels (B5)": pixels_job(),
    }
    chosen = list(works.items())[: 1 if QUICK.value else None]
    return [row for name, work in chosen for row in _beside_torch(name, work)]


def _torch_sees_device() -> bool:
    """Whether PyTorch can compute on the kind of device that JAX uses."""
    import jax

    if jax.default_backend() == "cpu":
        return True
    import torch

    return torch.cuda.is_available()


def _beside_torch(name: str, work: Job) -> Iterator[Row]:
    """PyTorch's time and its ratio to ours: eager, and compiled if that works.

    Its memory format is channels_last. --quick compiles nothing.
    """
    for mode in ("eager",) if QUICK.value else ("eager", "compiled"):
        compiled = mode == "compiled"
        try:
            found = side_by_side.run(
                dataclasses.replace(work, torch_compile=compiled), LAYOUTS[-1:]
            )
        except SystemExit as error:
            yield Row(f"{name}, PyTorch {mode}: {error}", None)
            continue
        for call in found.timings["ours"].median_s:
            batch = f", {call} at a time" if work.batches else ""
            units = int(call) if work.batches else work.steps
            figures = found.figures(call, units=units, flops=1.0)
            subject = f"{name}{batch}, PyTorch {mode}"
            yield Row(subject, 1e3 * figures["torch_s"], "ms")
            aim = "" if compiled else "≥ 5"
            yield Row(f"{subject}, over ours", figures["ratio"], "", aim)


PARTS: dict[str, Part] = {
    "machine": Part("what is it?", machine, 60),
    "steps": Part("how long is a step?", steps, 120),
    "category": Part("how long is a whole category?", one_category, 180),
    "plus": Part("and of AST+?", one_plus_category, 120),
    "scoring": Part("how long is a score?", scoring, 90),
    "pixels": Part("and from pixels?", pixels, 120),
    "parity": Part("are the numbers right?", parity, 120),
    "ten": Part("how long are ten categories?", ten_categories, 330),
    "profile": Part("does the device wait?", profile, 120),
    "pytorch": Part("and PyTorch?", pytorch, 300),
    "devices": Part("and several devices?", several_devices, 120),
}
