"""Scores files; writes rows of `predictions.jsonl` in order, and heat maps."""

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path
from typing import Any

import tifffile
from absl import logging
from PIL import Image
from tqdm import tqdm

from ast_jax.errors import UserError
from ast_jax.features.prefetch import WORKERS
from ast_jax.files import open_whole, write_errors
from ast_jax.inference.detector import BATCH_SIZE, Detector
from ast_jax.inference.heat_map import overlay
from ast_jax.inference.monitor_file import MonitorFile
from ast_jax.inference.prediction import Prediction
from ast_jax.inference.sources import Source, list_sources, stream_sources
from ast_jax.run import lock

_HEAT_MAPS, _MAPS = "heat_maps", "maps"
_OCCUPIED = "another prediction writes into this --output; take another"
_AT_ONCE = 4 * WORKERS  # largest number of parts whose files are being written
Row = dict[str, Any]


@dataclasses.dataclass
class Summary:
    """The number of scored, of anomalous, and of failed parts."""

    scored: int = 0
    anomalous: int = 0
    failed: int = 0

    def count(self, row: Row) -> None:
        """Counts a row."""
        self.failed += "error" in row
        self.scored += "error" not in row
        self.anomalous += bool(row.get("anomalous"))


def predict_files(
    detector: Detector,
    path: Path,
    xyz: Path | None,
    output: Path,
    monitor: MonitorFile | None = None,
) -> Summary:
    """Scores a file, or a folder's files; writes OUTPUT/predictions.jsonl and maps.

    Skips files that predictions have written, also if `output` is in the input folder.

    Raises:
      UserError: the input does not exist, or the output cannot be written.
    """
    own = [output / name for name in (_HEAT_MAPS, _MAPS)]
    if inside := [at for at in own if path.resolve().is_relative_to(at.resolve())]:
        raise UserError(
            f"--input={path}: lies in {inside[0]}, where this prediction writes; take "
            "another --output"
        )
    sources = list_sources(path, xyz, detector.config.mode, leave_out=own)
    options = {"streams": [], "live": False, "monitor": monitor}
    return _predict(detector, sources, output, **options)


def predict_stream(
    detector: Detector,
    lines: Iterable[str],
    xyz: Path | None,
    output: Path,
    answers: RawIOBase,
    monitor: MonitorFile | None = None,
) -> Summary:
    """Scores the paths in `lines` as they arrive; writes each row to `answers` at once.

    Raises:
      UserError: the output cannot be written.
      BrokenPipeError: nobody reads `answers` any more.
    """
    if xyz is not None and not xyz.is_dir():
        raise UserError(f"--xyz={xyz}: give a folder beside a stream of paths")
    sources = stream_sources(lines, xyz, detector.config.mode)
    options = {"streams": [answers], "live": True, "monitor": monitor}
    return _predict(detector, sources, output, **options)


def _predict(
    detector: Detector,
    sources: Iterable[Source],
    output: Path,
    *,
    streams: list[RawIOBase],
    live: bool,
    monitor: MonitorFile | None,
) -> Summary:
    summary, path = Summary(), output / "predictions.jsonl"
    total = len(sources) if isinstance(sources, Sized) else None
    # A single part is answered sooner by a batch of one, without a warm-up.
    size = 1 if total == 1 else BATCH_SIZE
    with lock(output, _OCCUPIED), write_errors(path), _replace(path) as file:
        start = time.perf_counter()
        if size > 1:
            detector.warm_up(size, live=live)
        compiled = time.perf_counter()
        with (
            tqdm(total=total, unit=" images", disable=None) as progress,
            contextlib.closing(
                _rows(
                    detector,
                    sources,
                    output,
                    [file, *streams],
                    size,
                    live,
                    monitor,
                )
            ) as rows,
        ):
            for row in rows:
                summary.count(row)
                progress.update()
        seconds = time.perf_counter() - compiled
    speed = f"{seconds:.1f} s with compilation"
    if size > 1:
        each = (summary.scored + summary.failed) / seconds
        speed = f"{each:.2f} images/s after {compiled - start:.1f} s of compilation"
    logging.info(
        "%s: %d scored, %d of them anomalous, %d failed; %s.",
        *(path, summary.scored, summary.anomalous, summary.failed, speed),
    )
    return summary


def _rows(
    detector: Detector,
    sources: Iterable[Source],
    output: Path,
    streams: list[RawIOBase],
    size: int,
    live: bool,
    monitor: MonitorFile | None,
) -> Iterator[Row]:
    """Writes each part's heat map, then its row, in threads; yields the rows."""
    waiting: collections.deque[Source] = collections.deque()
    unfinished: collections.deque[Future[Row]] = collections.deque()

    def parts() -> Iterator[tuple[Path | None, Path | None] | UserError]:
        for source in sources:
            waiting.append(source)
            problem = source.problem and UserError(source.problem)
            yield problem or (source.image, source.xyz)

    def make_row(source: Source, result: Prediction | UserError, watched: Row) -> Row:
        if isinstance(result, UserError):
            return {"path": source.path, "error": str(result)}
        maps = _write_maps(detector, result, output, source.name)
        return _row(source, result) | watched | maps

    # One thread of its own writes all rows: they keep their order, an interrupt cuts
    # none of them, and no row waits for the next part.
    writer = _Writer(streams)
    with ThreadPoolExecutor(WORKERS) as files, ThreadPoolExecutor(1) as rows:
        for result in detector.predict_many(parts(), batch_size=size, live=live):
            watched = monitor.watch(result) if monitor else {}
            row = files.submit(make_row, waiting.popleft(), result, watched)
            unfinished.append(rows.submit(writer.write, row))
            while unfinished and (len(unfinished) > _AT_ONCE or unfinished[0].done()):
                yield unfinished.popleft().result()
        for future in unfinished:
            yield future.result()


class _Writer:
    """Writes rows to streams, one line each, until one of them fails."""

    def __init__(self, streams: list[RawIOBase]):
        self._streams, self._failed = streams, False

    def write(self, future: "Future[Row]") -> Row:
        if self._failed:  # no row may follow one that is missing
            raise BrokenPipeError
        try:
            row = future.result()
            for stream in self._streams:
                line = memoryview(json.dumps(row).encode() + b"\n")
                while line:
                    line = line[stream.write(line) :]
        except BaseException:
            self._failed = True
            raise
        return row


def _row(source: Source, prediction: Prediction) -> Row:
    regions = prediction.regions
    return {
        "path": source.path,
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "anomalous": prediction.anomalous,
        **_fold_scores(prediction),
        "regions": regions and [dataclasses.asdict(region) for region in regions],
    }


def _fold_scores(prediction: Prediction) -> Row:
    """The scores that a later answer adds to the calibration."""
    if prediction.score_by_fold is None:
        return {"maximum": prediction.maximum}
    return {
        "maximum": prediction.maximum,
        "score_by_fold": prediction.score_by_fold.tolist(),
        "maximum_by_fold": prediction.maximum_by_fold.tolist(),
    }


def _write_maps(
    detector: Detector, prediction: Prediction, output: Path, name: Path
) -> Row:
    """Writes the overlay and the raw map; returns their paths below `output`."""
    heat_map, score_map = Path(_HEAT_MAPS, f"{name}.png"), Path(_MAPS, f"{name}.tiff")
    picture = Image.fromarray(overlay(prediction, detector.colour_scale))
    # Level 1 is several times faster than the default for a tenth more bytes.
    with open_whole(output / heat_map) as file:
        picture.save(file, "PNG", compress_level=1)
    with open_whole(output / score_map) as file:
        tifffile.imwrite(file, prediction.map)
    return {"heat_map": heat_map.as_posix(), "map": score_map.as_posix()}


@contextlib.contextmanager
def _replace(path: Path) -> Iterator[RawIOBase]:
    """Opens a new file in place of an old one, without a buffer for rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:
        yield file
