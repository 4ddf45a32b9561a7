"""Arrays recorded from the authors' code (tests/reference), in our layout."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from ast_jax.interop.official_checkpoint import student_variables, teacher_params

FOLDER = Path(__file__).parent / "reference"
CASES = ("combi", "rgb", "depth")


def channels_last(array: np.ndarray) -> np.ndarray:
    """NCHW as NHWC."""
    return np.moveaxis(array, -3, -1)


def relative_error(ours, theirs) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded pair: hidden 16, width 32, map 8×8."""

    name: str
    arrays: dict[str, np.ndarray]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def state_dict(self, network: str) -> dict[str, np.ndarray]:
        """The authors' state dict: "teacher", "student", "teacher_after", …"""
        prefix = f"{network}/"
        return {
            key.removeprefix(prefix): value
            for key, value in self.arrays.items()
            if key.startswith(prefix)
        }

    def teacher(self, network: str = "teacher") -> dict:
        """Our teacher's parameters."""
        return teacher_params(self.state_dict(network))

    def student(self, network: str = "student") -> dict:
        """Our student's variables."""
        return student_variables(self.state_dict(network))

    def x(self, prefix: str) -> np.ndarray:
        """Network input [b, 8, 8, c] of "in" or, all 8 steps' together, "traj"."""
        parts = []
        if self.name != "depth":
            features = channels_last(self[f"{prefix}/features"])
            parts.append(features.reshape(-1, *features.shape[-3:]))
        if self.name != "rgb":
            depth = self[f"{prefix}/depth"].reshape(-1, 8, 8, 8, 8)
            parts.append(depth.transpose(0, 1, 3, 2, 4).reshape(-1, 8, 8, 64))
        return np.concatenate(parts, axis=-1)

    def foreground(self, prefix: str) -> np.ndarray:
        """Foreground weight [b, 8, 8]: the mean of each cell's central 2×2."""
        if self.name == "rgb":
            return np.ones(self.x(prefix).shape[:3], np.float32)
        full = self[f"{prefix}/foreground"].reshape(-1, 8, 8, 8, 8)
        return full[:, :, 3:5, :, 3:5].mean((2, 4))


@functools.cache
def load(name: str) -> Case:
    """Opens "combi", "rgb" or "depth"."""
    with np.load(FOLDER / f"ast_{name}.npz", allow_pickle=False) as arrays:
        return Case(name, dict(arrays))
