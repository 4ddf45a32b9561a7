"""ELPV: electroluminescence pictures of solar cells, from the package of that name.

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery" (EU PVSEC 2018). 2,624 grey pictures of 300 by 300 pixels
from 44 modules, each with a probability of a defect: 0, 1/3, 2/3 or 1.
"""

import importlib.resources
import os
import random
import types
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.listing import Listing, Sample
from ast_jax.data.part import GOOD
from ast_jax.errors import UserError
from ast_jax.files import expand_home

DISTRIBUTION = "elpv-dataset"
LABELS = "labels.csv"
CATEGORIES = ("mono", "poly")  # the crystal
# The kind of a cell by its label, the probability of a defect.
KINDS: Mapping[str, str] = types.MappingProxyType(
    {
        "0.0": GOOD,
        "0.3333333333333333": "perhaps_defective",
        "0.6666666666666666": "probably_defective",
        "1.0": "defective",
    }
)
DEFECTIVE = KINDS["1.0"]
# Few training cells, as on a production line.
TRAIN_GOOD, TEST_EACH_KIND = 250, 100


class ELPV(PartsBuilder):
    """Builder of one kind of cell; an empty `root` means the package's own data.

    250 cells with probability 0 are for training. The test has 100 others, 100 with
    probability 1, and with `uncertain` up to 100 each with 1/3 and 2/3. `seed` draws
    the cells, because file names do not name the modules. There are no masks.
    """

    name = "elpv"
    TITLE = "ELPV solar cells"
    HOMEPAGE = "https://github.com/zae-bayern/elpv-dataset"
    TREE = "labels.csv and images/cell0001.png"
    LICENSE = "CC BY-NC-SA 4.0"
    CITATION = """\
@inproceedings{buerhop2018elpv,
  title={A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery},
  author={Buerhop-Lutz, Claudia and Deitsch, Sergiu and Maier, Andreas and Gallwitz,
    Florian and Berger, Stephan and Doll, Bernd and Hauch, Jens and Camus, Christian and
    Brabec, Christoph J.},
  booktitle={European PV Solar Energy Conference and Exhibition (EU PVSEC)},
  year={2018}
}"""

    def __init__(
        self,
        *,
        root: str | os.PathLike = "",
        seed: int = 0,
        uncertain: bool = False,
        **kwargs: Any,
    ):
        """Takes the arguments of `PartsBuilder` and two more.

        Args:
          root: the folder with the cells; empty for the installed package.
          seed: draws the cells.
          uncertain: adds doubtful cells.
          **kwargs: the arguments of `PartsBuilder`.
        """
        self.seed, self.uncertain = seed, uncertain
        super().__init__(root=_folder(root), **kwargs)

    @classmethod
    def from_config(cls, dataset: Any, category: str, **options: Any) -> "ELPV":
        """Makes the builder with the configured seed and doubtful cells."""
        chosen = {"seed": dataset.seed, "uncertain": dataset.elpv.uncertain}
        return super().from_config(dataset, category, **chosen, **options)

    @classmethod
    def categories(cls, root: str | os.PathLike) -> tuple[str, ...]:
        """Mono- and polycrystalline cells; raises a UserError without labels."""
        _folder(root)
        return CATEGORIES

    def list_samples(self) -> Listing:
        """Draws the category's cells from the labels."""
        cells: dict[str, list[Path]] = defaultdict(list)
        for path, kind, crystal in _labels(self.root / LABELS):
            if crystal == self.category:
                cells[kind].append(path)
        kinds = [GOOD, DEFECTIVE]
        if self.uncertain:
            kinds += [kind for kind in KINDS.values() if kind not in kinds]
        samples, unused = [], []
        for kind in kinds:
            drawn = sorted(cells[kind])
            random.Random(f"{self.seed} {self.category} {kind}").shuffle(drawn)
            learned = TRAIN_GOOD if kind == GOOD else 0
            end = learned + TEST_EACH_KIND
            samples += [_sample("train", kind, path) for path in drawn[:learned]]
            samples += [_sample("test", kind, path) for path in drawn[learned:end]]
            unused.append(f"{max(0, len(drawn) - end)} {kind}")
        logging.info("elpv %s: not used: %s cells", self.category, ", ".join(unused))
        absent = [sample for sample in samples if not sample.image.is_file()]
        present = (sample for sample in samples if sample not in absent)
        return Listing(
            tuple(sorted(present, key=_order)),
            tuple(f"{s.image}: missing, though {LABELS} lists it" for s in absent),
        )


def _folder(root: str | os.PathLike) -> Path:
    """The folder with the labels: `root`, or the package's if `root` is empty."""
    if os.fspath(root):
        folder = expand_home(root)
    else:
        try:
            folder = Path(str(importlib.resources.files("elpv_dataset") / "data"))
        except ModuleNotFoundError as error:
            raise UserError(
                "dataset.name: elpv comes with a package that is not installed; pip "
                f"install {DISTRIBUTION}, or give --config.dataset.root, the folder of "
                f"{ELPV.TREE}"
            ) from error
    if not (folder / LABELS).is_file():
        raise UserError(f"{folder}: no {LABELS} in it; expected {ELPV.TREE}")
    return folder


def _labels(path: Path) -> list[tuple[Path, str, str]]:
    """Each picture's path, kind and crystal."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        match line.split():
            case []:
                pass
            case [image, chance, crystal] if chance in KINDS and crystal in CATEGORIES:
                rows.append((path.parent / image, KINDS[chance], crystal))
            case _:
                raise UserError(
                    f"{path}:{number}: {line.strip()!r} is not a row of a picture, a "
                    f"probability ({', '.join(KINDS)}) and {' or '.join(CATEGORIES)}"
                )
    return rows


def _sample(split: str, kind: str, path: Path) -> Sample:
    masks = () if kind == GOOD else None
    return Sample(f"{split}/{kind}/{path.stem}", split, kind, path, masks=masks)


def _order(sample: Sample) -> tuple[str, bool, str]:
    """Good cells first, each kind in the order of its pictures."""
    return sample.split, sample.defect != GOOD, sample.id
