"""What the timings share: rivals in processes of their own, taking turns.

A rival is a module that calls `serve` with the function to be timed. It runs alone in
its process, so that its peak memory is its own, and only when asked, so that several of
them see the same machine: `alternate` asks them in turn, round after round.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

ROOF_SIDE = 2048


def serve(function: Callable[[], Any]) -> None:
    """Calls `function` whenever a line comes in and answers with what it took.

    `function` returns when its result is there; its first call (compilation, caches)
    is made before the first question.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries' chatter is no answer
    function()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        function()
        taken = {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}
        print(json.dumps(taken), file=answers, flush=True)


def peak_mb() -> float:
    """The largest resident memory that this process has had, in 10^6 bytes (Linux)."""
    # Not ru_maxrss: a child inherits its parent's through fork.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Rival:
    """A module that serves, in its own process; a context manager."""

    def __init__(self, module: str, *arguments: str):
        """Starts `python -m module arguments…` and waits for its first call."""
        self.peak_mb = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"{module} {' '.join(arguments)} did not start")

    def seconds(self) -> float:
        """Wall-clock time of one call, in the rival's process."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.peak_mb = answer["peak_mb"]
        return answer["seconds"]

    def __enter__(self) -> Self:
        """The rival itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._process.communicate()


def alternate(
    candidates: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """`rounds` timings in seconds of each, taken in turn.

    A candidate returns the seconds of one call, as `Rival.seconds` does.
    """
    timings = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, seconds in candidates.items():
            timings[name].append(seconds())
    return timings


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """A candidate of `alternate` in this process; `function` waits for its result."""

    def seconds() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def matrix_product() -> None:
    """Serves a float32 matrix product of `ROOF_FLOPS`: the machine's roof, by JAX."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    a = jnp.array(rng.normal(size=(ROOF_SIDE, ROOF_SIDE)), jnp.float32)
    product = jax.jit(jnp.matmul)
    serve(lambda: product(a, a).block_until_ready())


ROOF_FLOPS = 2 * ROOF_SIDE**3


def report(results: Mapping[str, Any]) -> None:
    """Prints the results as the last line, one JSON object; floats to four digits."""
    rounded = {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in results.items()
    }
    print(json.dumps(rounded))


if __name__ == "__main__":
    matrix_product()
