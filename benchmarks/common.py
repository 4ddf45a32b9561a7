"""The common part of all timings: rivals in their own processes, which take turns.

A rival is a module that calls `serve` with the function to be timed. It runs alone in
its process, so that its peak memory is its own, and only when asked, so that several of
them see the same machine: `alternate` asks them in turn, round after round.
"""

import collections
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

Function = Callable[[], Any]


def peak_mb() -> float:
    """The largest resident memory that this process has had, in 10^6 bytes (Linux)."""
    # Not ru_maxrss: a child inherits its parent's through fork.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def serve(
    functions: Function | Mapping[str, Function],
    *,
    keep: Path | None = None,
    kept: int = 1,
    first_calls: int = 2,
    warm_up: Function | None = None,
    memory_mb: Callable[[], float] = peak_mb,
    compiling_s: Callable[[], float] | None = None,
    **facts: Any,
) -> None:
    """Reads the names of functions, line by line; calls each and prints its time.

    Each function is called before the first line is read.

    Args:
      functions: by name, a single one as "call". Each returns when its result is ready.
      keep: an .npz file for the stacked results of the first calls, by name.
      kept: the number of these calls.
      first_calls: at least so many before the first line; 1 if a call takes minutes.
      warm_up: is called first instead of each, if a call takes long.
      memory_mb: returns the peak memory of the process or the accelerator.
      compiling_s: the seconds spent compiling so far, which do not count as a call's.
        Where unknown, compilation is by how much the first call takes longer.
      facts: about this rival, for the process that starts it.
    """
    functions = {"call": functions} if callable(functions) else functions
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries may print lines of their own
    clock = compiling_s or (lambda: 0.0)
    compile_s, results = {}, {}
    for name, function in functions.items():
        before = clock()
        calls = [time_call(warm_up or function) for _ in range(max(kept, first_calls))]
        seconds = [seconds for seconds, _ in calls]
        longer = max(0.0, seconds[0] - min(seconds[1:], default=seconds[0]))
        compile_s[name] = clock() - before if compiling_s else longer
        results[name] = np.stack([result for _, result in calls[:kept]])
    if keep:
        np.savez(keep, **results)
    print(json.dumps({"compile_s": compile_s, **facts}), file=answers, flush=True)
    for line in sys.stdin:
        compiling, processor = clock(), time.process_time()
        seconds, _ = time_call(functions[line.strip()])
        taken = {
            "seconds": seconds - (clock() - compiling),
            "processor_s": time.process_time() - processor,
            "peak_mb": memory_mb(),
        }
        print(json.dumps(taken), file=answers, flush=True)


def compile_clock() -> Callable[[], float]:
    """Returns a function that returns XLA's seconds of compilation since now."""
    import jax

    events = [
        f"/jax/core/compile/{part}_duration"
        for part in ("jaxpr_to_mlir_module", "backend_compile")
    ]
    total = 0.0

    def add(event: str, seconds: float, **_: Any) -> None:
        nonlocal total
        total += seconds if event in events else 0.0

    jax.monitoring.register_event_duration_secs_listener(add)
    return lambda: total


def cache_programs(folder: Path) -> None:
    """Lets JAX keep compiled programs in a folder, so that it compiles each once."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def time_call(function: Function) -> tuple[float, Any]:
    """Seconds of a call, which waits for its result, and that result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


class Rival:
    """A module that serves, in its own process; a context manager.

    Attributes:
      facts: from the rival, with "compile_s" by function.
      peak_mb: its peak memory at the last answer.
      processor_s: all threads' seconds of each call so far, by name.
    """

    def __init__(self, module: str, *arguments: str):
        """Starts `python -m module arguments…` and waits for its first calls."""
        self.peak_mb, self.processor_s = 0.0, collections.defaultdict(list)
        # JAX would take three quarters of a GPU, which the rivals share.
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=shared | os.environ,
        )
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{module} {' '.join(arguments)} did not start")
        self.facts = json.loads(line)

    def seconds(self, name: str = "call") -> float:
        """Wall-clock time of one call, in the rival's process."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.peak_mb = answer["peak_mb"]
        self.processor_s[name].append(answer["processor_s"])
        return answer["seconds"]

    def __enter__(self) -> Self:
        """The rival itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._process.communicate()


def alternate(
    candidates: Mapping[Hashable, Callable[[], float]], rounds: int
) -> dict[Hashable, list[float]]:
    """`rounds` timings in seconds of each, taken in turn.

    A candidate returns the seconds of one call, as `Rival.seconds` does.
    """
    timings = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, seconds in candidates.items():
            timings[name].append(seconds())
    return timings


@dataclasses.dataclass(frozen=True)
class Timing:
    """The timings of a rival.

    Attributes:
      median_s: of each of its functions, by name.
      processor_s: likewise, all threads' time on a processor, compilation included;
        other people's work on the machine touches it less.
      compile_s: seconds of compilation of each.
      peak_mb: peak memory.
    """

    median_s: dict[str, float]
    processor_s: dict[str, float]
    compile_s: dict[str, float]
    peak_mb: float


def compare(rivals: Mapping[str, Rival], rounds: int) -> dict[str, Timing]:
    """Calls all of the rivals' functions in turn, `rounds` times."""
    turns = {
        (name, function): functools.partial(rival.seconds, function)
        for name, rival in rivals.items()
        for function in rival.facts["compile_s"]
    }
    timings = alternate(turns, rounds)
    found = {}
    for name, rival in rivals.items():
        compile_s = rival.facts["compile_s"]
        median_s = {key: float(np.median(timings[name, key])) for key in compile_s}
        processor_s = {
            key: float(np.median(rival.processor_s[key])) for key in compile_s
        }
        found[name] = Timing(median_s, processor_s, compile_s, rival.peak_mb)
    return found


def matrix_product(dtype: str) -> None:
    """Serves a matrix product by JAX: the roof of this machine's speed.

    Its "flops" is a fact. bfloat16 factors are accumulated in float32.
    """
    import jax
    import jax.numpy as jnp

    # Milliseconds, so that the cost of the call is small.
    side = 2048 if jax.default_backend() == "cpu" else 8192
    rng = np.random.default_rng(0)
    a = jnp.array(rng.normal(size=(side, side)), dtype)

    @jax.jit
    def product(a: jax.Array) -> jax.Array:
        return jnp.matmul(a, a, preferred_element_type=jnp.float32)

    serve(lambda: product(a).block_until_ready(), flops=2 * side**3)


def report(results: Mapping[str, Any]) -> None:
    """Prints the results as the last line, one JSON object; floats to four digits."""
    print(json.dumps(_round(results)))


def _round(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _round(entry) for key, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    matrix_product(sys.argv[1])
