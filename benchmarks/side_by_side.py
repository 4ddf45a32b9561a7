"""Our networks and PyTorch's, with the same random features, weights and work.

A benchmark describes a `Job`; `benchmarks.ast_rival` and `benchmarks.torch_rival` (in
both memory formats, of which the faster counts) do it in processes of their own, must
agree, and then take turns with a matrix product. Nothing here needs JAX or PyTorch.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from absl import flags

from benchmarks.common import Rival, Timing, compare

LAYOUTS = ("contiguous", "channels_last")
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # of the largest value
_RGB_CHANNELS, _DEPTH_CHANNELS = 304, 64
_QUICK_WIDTH = 256

QUICK = flags.DEFINE_bool("quick", False, "Small sizes, for 60 s on 2 cores.")
WIDTH = flags.DEFINE_integer("width", 1024, "The student's; 256 with --quick.")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", list(TOLERANCE), "PyTorch computes bfloat16 by autocast."
)
_TORCH_DTYPE = flags.DEFINE_enum(
    "torch_dtype", None, list(TOLERANCE), "PyTorch's, where it is another than ours."
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Calls of each; 3 with --quick.")
_LAYOUT = flags.DEFINE_multi_enum(
    "layout",
    None,
    LAYOUTS,
    "PyTorch's memory formats to try; both, with --quick channels_last alone.",
)
_COMPILE = flags.DEFINE_bool(
    "torch_compile", False, "torch.compile PyTorch's networks."
)


@dataclasses.dataclass(frozen=True)
class Job:
    """The work of both sides; the sizes are the paper's.

    Attributes:
      task: "teacher_step", "student_step", "training", "scoring" or "pixels".
      samples: random feature maps.
      batch: maps a step.
      steps: train steps a call.
      epochs: of each network, in `training`.
      batches: maps or images a call, of each of the calls of `scoring` and `pixels`.
      blocks: of the teacher, and of the student.
      backbone: timm's name, without a tag; `pixels` alone has one.
      stage: of the backbone, whose output is the feature map.
      image_size: side of the images in pixels.
      torch_dtype: PyTorch's; `dtype` is ours, and the matrix product's.
      torch_compile: whether PyTorch's networks are compiled.
    """

    task: str
    samples: int
    batch: int = 8
    steps: int = 1
    epochs: int = 0
    batches: tuple[int, ...] = ()
    side: int = 24
    channels: int = _RGB_CHANNELS + _DEPTH_CHANNELS
    depth_channels: int = _DEPTH_CHANNELS
    hidden: int = 64
    width: int = 1024
    blocks: int = 4
    backbone: str = ""
    stage: int = 5
    image_size: int = 768
    dtype: str = "float32"
    torch_dtype: str = "float32"
    torch_compile: bool = False

    @classmethod
    def from_flags(cls, task: str, samples: int, **fields: Any) -> "Job":
        """Makes a job with width, dtype and torch.compile from the flags."""
        return cls(
            task,
            samples,
            width=_QUICK_WIDTH if QUICK.value else WIDTH.value,
            dtype=DTYPE.value,
            torch_dtype=_TORCH_DTYPE.value or DTYPE.value,
            torch_compile=_COMPILE.value,
            **fields,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads a job that `save` has written."""
        return cls(**json.loads((folder / "job.json").read_text()))

    def save(self, folder: Path) -> None:
        """Writes the job and random images, or features and the student's target."""
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(self)))
        if self.backbone:
            shape = (self.samples, self.image_size, self.image_size, 3)
            images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            np.save(folder / "images.npy", images)
            return
        x, foreground = random_features(self)
        np.save(folder / "x.npy", x)
        np.save(folder / "foreground.npy", foreground)
        if self.task == "student_step":
            np.save(folder / "target.npy", x[..., ::-1])

    def forward_flops(self) -> dict[str, float]:
        """FLOPs of each network per image: two for a multiplication and an addition.

        Counts convolutions only, without the positional encoding's part, which all
        images share.
        """
        c, hidden, width = self.channels, self.hidden, self.width
        first, second = c // 2, c - c // 2
        # Each half of the channels conditions the other's scale and shift.
        per_tap = (first + second) * hidden + hidden * 2 * (first + second)
        teacher = ((self.blocks - 1) * 3**2 + 5**2) * per_tap
        student = 3**2 * (c * width + 2 * self.blocks * width**2 + width * c)
        multiplications = {"teacher": teacher, "student": student}
        return {key: 2.0 * self.side**2 * n for key, n in multiplications.items()}

    def step_flops(self) -> dict[str, float]:
        """FLOPs of a training step per image: three times the forward pass.

        Leaves out the gradients to the input, which are not needed.
        """
        c, per_weight = self.channels, 2.0 * self.side**2 * 3**2
        none = {"teacher": (c - c // 2) * self.hidden, "student": c * self.width}
        forward = self.forward_flops()
        return {key: 3 * forward[key] - per_weight * none[key] for key in forward}


def layouts() -> tuple[str, ...]:
    """PyTorch's memory formats to try."""
    if _LAYOUT.value:
        return tuple(dict.fromkeys(_LAYOUT.value))
    return LAYOUTS[-1:] if QUICK.value else LAYOUTS


def random_features(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Feature maps [n,h,w,c] and foreground weights [n,h,w]."""
    rng = np.random.default_rng(0)
    shape = (job.samples, job.side, job.side, job.channels)
    return rng.standard_normal(shape, np.float32), rng.random(shape[:3], np.float32)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The timings of all rivals, by name; `roof` in FLOP/s."""

    timings: dict[str, Timing]
    roof: float

    def figures(self, call: str = "call", *, units: int, flops: float) -> dict:
        """The JSON's figures of one call.

        Args:
          call: its name.
          units: what a call does, in the unit (step, image) that seconds are given for.
          flops: useful FLOPs a unit.
        """
        ours = self.timings["ours"]
        ours_s = ours.median_s[call] / units
        found = {
            "ours_s": ours_s,
            "roof_share": flops / ours_s / self.roof,
            "roof_gflops": self.roof / 1e9,
            "compile_s": ours.compile_s[call],
            "peak_mb": ours.peak_mb,
        }
        tried = [layout for layout in LAYOUTS if layout in self.timings]
        if not tried:
            return found
        layout = min(tried, key=lambda name: self.timings[name].median_s[call])
        theirs = self.timings[layout]
        torch_s = theirs.median_s[call] / units
        return found | {
            "torch_s": torch_s,
            "ratio": torch_s / ours_s,
            "processor_ratio": theirs.processor_s[call] / ours.processor_s[call],
            "torch_peak_mb": theirs.peak_mb,
            "torch_layout": layout,
        }


def run(job: Job, tried: Sequence[str] | None = None) -> Outcome:
    """Lets all rivals do the job in turns.

    Args:
      job: the work.
      tried: PyTorch's memory formats, none for ours alone; the flags' by default.

    Raises:
      SystemExit: a rival does not start, or its results differ from ours.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        job.save(folder)

        def start(module: str, *arguments: str) -> Rival:
            return stack.enter_context(Rival(f"benchmarks.{module}", *arguments))

        # Ours first, because it writes the initial weights for PyTorch.
        rivals = {"ours": start("ast_rival", str(folder))}
        for layout in layouts() if tried is None else tried:
            rivals[layout] = start("torch_rival", str(folder), layout)
            check_agreement(
                folder, layout, max(TOLERANCE[job.dtype], TOLERANCE[job.torch_dtype])
            )
        rivals["roof"] = start("common", job.dtype)
        timings = compare(rivals, 3 if QUICK.value else ROUNDS.value)
        for name, timing in timings.items():
            each = ", ".join(f"{call} {s:.4g} s" for call, s in timing.median_s.items())
            print(f"  {name}: {each}; {timing.peak_mb:.0f} MB")
        flops = rivals["roof"].facts["flops"]
        return Outcome(timings, flops / timings["roof"].median_s["call"])


def settings(job: Job) -> dict[str, Any]:
    """The job's settings in the JSON."""
    names = ("dtype", "torch_dtype", "torch_compile", "width")
    return {name: getattr(job, name) for name in names} | {"quick": QUICK.value}


def check_agreement(folder: Path, layout: str, tolerance: float) -> None:
    """Ends the benchmark if PyTorch's losses or scores differ from ours."""
    with np.load(folder / "ours.npz") as ours, np.load(folder / f"{layout}.npz") as its:
        for call, expected in ours.items():
            difference = np.abs(its[call] - expected).max()
            if not difference <= tolerance * np.abs(expected).max():
                raise SystemExit(
                    f"{layout}, {call}: differs from ours by up to {difference}"
                )
