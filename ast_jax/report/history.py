"""Losses, speed and time of a run's trainings, from its `metrics.jsonl` files."""

import dataclasses

from ast_jax.run import Member, Run
from ast_jax.training.progress import read_rows


@dataclasses.dataclass(frozen=True)
class Training:
    """One network's training, with one entry per epoch.

    Attributes:
      category: of the pair.
      seed: of the pair; with cross calibration seed and fold.
      network: "teacher" or "student".
      epochs: their numbers, from 1.
      losses: the mean loss of each epoch.
      seconds: of all epochs together, by their logged rates.
      rate: images per second, over all epochs.
    """

    category: str
    seed: Member
    network: str
    epochs: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float
    rate: float


def trainings(run: Run, category: str) -> list[Training]:
    """The teacher's and the student's training of each pair, if they are logged."""
    found = []
    for member in run.members(category):
        seed: Member = int(member) if member.isdigit() else member
        lines = read_rows(run.seed_directory(category, seed) / "metrics.jsonl")
        if not lines:  # an imported pair
            continue
        images = len(run.read_record(category, seed)["train"])
        for network in ("teacher", "student"):
            # An epoch that was interrupted and repeated counts once.
            epochs = {row["epoch"]: row for row in lines if row["stage"] == network}
            if epochs:
                rows = [epochs[number] for number in sorted(epochs)]
                found.append(_training(run, category, seed, network, rows, images))
    return found


def _training(
    run: Run, category: str, seed: Member, network: str, rows: list[dict], images: int
) -> Training:
    batch = min(run.config.train.batch_size, images)
    an_epoch = images - images % batch
    seconds = sum(an_epoch / row["images/s"] for row in rows if row["images/s"])
    return Training(
        category,
        seed,
        network,
        epochs=tuple(row["epoch"] for row in rows),
        losses=tuple(row["loss"] for row in rows),
        seconds=seconds,
        rate=an_epoch * len(rows) / seconds if seconds else 0.0,
    )
