"""The tfds builder that all data sets share: list, check, prepare, read.

A data set's own file says where its samples lie (`list_samples`) and whose they are
(licence, citation, page). Here they are checked, written as array_record in the order
of listing, without TensorFlow, and read back as `Parts`. Prepared data hold the
publisher's encoded bytes; of a point cloud only z.
"""

import abc
import dataclasses
import hashlib
import json
import math
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf.json_format import ParseError
from tqdm import tqdm

from ast_jax.data import encoded
from ast_jax.data.content import Content, Reading, check
from ast_jax.data.decode import DEFAULT_DEPTH, estimate_bit_depth
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.ignored import unused_files
from ast_jax.data.layout import near_match
from ast_jax.data.listing import SPLITS, Listing, Sample, problems_error
from ast_jax.data.part import Entry, Part, Parts
from ast_jax.data.selection import Selection, left_out, require_training
from ast_jax.data.tfds_records import Records
from ast_jax.data.walk import files_below, subfolders
from ast_jax.errors import UserError
from ast_jax.files import expanded


class PartsBuilder(Records, skip_registration=True):
    """Base of all data sets; one builder is one category.

    Attributes:
        TITLE: the data set's name as its publisher writes it.
        HOMEPAGE: the publisher's page.
        TREE: the files expected below `dataset.root`, in one line.
        LICENSE: the licence of the data.
        CITATION: BibTeX.
        ACCOMPANYING: names of files that come with it and are of no part.
        ANY_NAME: whether its only category may be called by any name.
        HAS_DEPTH: whether it has point clouds.
        CLASS_NUMBERS: whether its ground truth holds class numbers, not colours.
        KINDS: short name → defect type, of what its publisher's script measures apart.
    """

    VERSION = tfds.core.Version("1.1.0")
    TITLE: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    TREE: ClassVar[str]
    LICENSE: ClassVar[str]
    CITATION: ClassVar[str]
    ACCOMPANYING: ClassVar[tuple[str, ...]] = ("license.txt", "readme.txt")
    ANY_NAME: ClassVar[bool] = False
    HAS_DEPTH: ClassVar[bool] = False
    CLASS_NUMBERS: ClassVar[bool] = False
    KINDS: ClassVar[Mapping[str, str]] = types.MappingProxyType({})

    def __init__(
        self,
        *,
        category: str,
        data_dir: str | os.PathLike,
        root: str | os.PathLike = "",
        depth: bool = False,
        depth_options: DepthOptions = DEFAULT_DEPTH,
        bit_depth: int = 0,
        exclude: Sequence[str] = (),
        excluded: Sequence[str] | None = None,
    ):
        """List the samples of a category; nothing is decoded or written yet.

        Args:
            category: one of `categories(root)`.
            data_dir: where prepared data are kept, below `name/category-hash`.
            root: the folder as the publisher ships it.
            depth: read the point clouds too.
            depth_options: their unit, and what is missing in them.
            bit_depth: how many bits of 16 the camera fills; 0 to estimate it.
            exclude: names of training pictures to leave out, see `chosen`.
            excluded: their ids, as a run recorded them, in the place of names.

        Raises:
            UserError: the folder, category, point clouds or good parts are missing.
        """
        self.root = expanded(root)
        self.category = category
        self.depth = depth
        self.depth_options = depth_options
        self._bit_depth = bit_depth
        if depth and not self.HAS_DEPTH:
            raise UserError(f"{self.TITLE} has no point clouds: set --config.mode=rgb")
        known = self.categories(root)
        if category not in known and not self.ANY_NAME:
            raise UserError(
                f"{root}: no category {category!r}; {near_match(category, known)}"
            )
        self.listing = self.list_samples()
        unused = self._find_unused()
        where = (self.root, category)
        listing = require_training(self.listing, unused, *where, self.TREE)
        self.listing, ids = left_out(listing, exclude, excluded, *where)
        self.selection = Selection(self.listing, ids, tuple(unused), self.root)
        name = f"{re.sub(r'[^a-zA-Z0-9_.-]+', '_', category)}-{self._source_hash()}"
        data_dir = os.fspath(expanded(data_dir))
        try:
            super().__init__(name, data_dir)
        except (ValueError, ParseError) as error:  # JSON that an earlier run left
            raise _damaged(os.path.join(data_dir, self.name, name)) from error

    @classmethod
    def from_config(cls, dataset: Any, category: str, **options: Any) -> "PartsBuilder":
        """Make the builder of a category from the `dataset` section of a config.

        Args:
            dataset: the section.
            category: one of `categories(dataset.root)`.
            options: further arguments of the class.
        """
        return cls(
            category=category, data_dir=dataset.data_dir, root=dataset.root, **options
        )

    @classmethod
    def categories(cls, root: str | os.PathLike) -> tuple[str, ...]:
        """The categories below `root`, sorted; a UserError where there are none."""
        folder = expanded(root)
        advice = (
            f"get {cls.TITLE} from {cls.HOMEPAGE} and give the folder of {cls.TREE}"
        )
        if not os.fspath(root):
            raise UserError(f"--config.dataset.root is empty: {advice}")
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {advice}")
        if found := cls.find_categories(folder):
            return found
        if folder.name in cls.find_categories(folder.parent):
            raise UserError(
                f"{folder} is one category: give --config.dataset.root={folder.parent}"
            )
        raise UserError(f"{folder}: nothing of {cls.TITLE} in it; {advice}")

    @classmethod
    def find_categories(cls, root: Path) -> tuple[str, ...]:
        """The names of the subfolders with training data, sorted."""
        return tuple(
            folder.name for folder in subfolders(root) if (folder / "train").is_dir()
        )

    @abc.abstractmethod
    def list_samples(self) -> Listing:
        """List the category's samples below `self.root` without opening them.

        Point clouds are listed only where `self.depth`. A file that is missing becomes
        a line of `problems`.
        """

    def nearby(self) -> Iterable[Path]:
        """The files among which those of the samples lie, and which may be others."""
        return files_below(self.root / self.category)

    def accompanies(self, path: Path) -> bool:
        """Whether a file belongs to the data set without being of a part."""
        return path.name in self.ACCOMPANYING

    def split_of(self, path: Path) -> str:
        """The split that one of the `nearby` files would belong to, or ""."""
        base = self.root / self.category
        top = path.relative_to(base).parts[0] if path.is_relative_to(base) else ""
        return "test" if top == "ground_truth" else top if top in SPLITS else ""

    def fill(self, sample: Sample) -> Sample:
        """Return the sample with its data; what has no files is rendered here."""
        return sample

    def saturations(self, sample: Sample, content: Content) -> tuple[float, ...]:
        """The saturation area of each mask in pixels; () where there are none.

        Raises:
            UserError: a mask names no known defect type.
        """
        del sample, content
        return ()

    def source_state(self) -> Any:
        """What the prepared data were made from, as JSON: file names, sizes, times."""
        return [
            [sample.id, sample.masks is None, *map(self._file_state, sample.paths)]
            for sample in self.listing.samples
        ]

    def store(self, sample: Sample, content: Content) -> dict[str, Any]:
        """The record of a sample, as `features` describes it."""
        return encoded.record(sample, content, depth=self.depth)

    def restore(self, record: dict[str, Any]) -> Content:
        """The inverse of `store`."""
        return encoded.content(record)

    def features(self) -> dict[str, Any]:
        """The tfds features of a record."""
        return encoded.features(depth=self.depth)

    def prepare(self) -> None:
        """Check and write the data, unless this has been done.

        Two processes may prepare the same data at once: the first to finish is kept.

        Raises:
            UserError: files are missing or broken (all of them are in the log), or the
                data cannot be written.
        """
        if not self.data_path.exists():
            self._prepare()
            for split in SPLITS:
                if len(parts := self.parts(split)) or parts.notes:
                    logging.info("%s, %s: %s", self.category, split, parts.summary)
        if self._peak:
            logging.info(
                "%s: its images of 16 bits are read as %d bits; the largest value of "
                "the training images is %d. --config.dataset.bit_depth says otherwise.",
                *(self.category, self.bit_depth, self._peak),
            )

    def _prepare(self) -> None:
        logging.info("Preparing %s %s in %s", self.name, self.category, self.data_dir)
        try:
            self.write()
        except (OSError, RuntimeError) as error:  # the latter: array_record's writer
            if not self.data_path.exists():
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{self.data_dir}: prepared data cannot be written ({reason}); "
                    "choose another --config.dataset.data_dir"
                ) from error
            self.info.read_from_directory(self.data_dir)

    @property
    def bit_depth(self) -> int:
        """How many bits of 16 count: those asked for, or that training images fill."""
        return self._bit_depth or estimate_bit_depth(self._peak)

    @property
    def reading(self) -> Reading:
        """How the files are read."""
        return Reading(self.depth_options, self.bit_depth, self.CLASS_NUMBERS)

    @property
    def _peak(self) -> int:
        """The largest value of the training images of 16 bits, 0 without any."""
        try:
            return int((self.info.metadata or {}).get("peak", 0))
        except (ValueError, TypeError) as error:
            raise _damaged(self.data_dir) from error

    def parts(self, split: str) -> Parts:
        """The prepared parts of "train", "validation" or "test"; maybe none."""
        try:
            metadata = self.info.metadata
            rows = metadata["parts"].get(split, [])
        except (ValueError, KeyError) as error:
            raise _damaged(self.data_dir) from error
        entries = [Entry(*row) for row in rows]
        notes = tuple(self.selection.notes(split, self.split_of))
        if not entries:
            return Parts((), ().__getitem__, notes=notes)
        source = self.read(split)

        def read(index: int) -> Part:
            return self._read(source, index, entries[index])

        return Parts(
            entries,
            read,
            bit_depth=self.bit_depth,
            sizes=metadata.get("sizes", ()) if split == "train" else (),
            notes=notes,
            excluded=self.selection.excluded if split == "train" else (),
        )

    def _find_unused(self) -> list[Path]:
        used = {path for sample in self.listing.samples for path in sample.paths}
        unused = unused_files(self.nearby(), used)
        unused = [path for path in unused if not self.accompanies(path)]
        if not self.depth:  # the clouds are not missed
            unused = [path for path in unused if "xyz" not in path.parts]
        return unused

    def _read(self, source: Sequence[Any], index: int, entry: Entry) -> Part:
        try:
            content = self.restore(source[index])
            intact = content.digests() == entry.digests
        except UserError:
            raise
        # array_record, zlib and tfds raise many kinds on damaged bytes.
        except Exception as error:
            logging.error("%s: %s", entry.id, error)
            intact = False
        if not intact:
            raise _damaged(self.data_dir, entry.id)
        return content.decode(entry, self.reading)

    def _file_state(self, path: Path) -> list[Any]:
        status = path.stat()
        return [os.path.relpath(path, self.root), status.st_size, status.st_mtime_ns]

    def _source_hash(self) -> str:
        state = [self.depth, self.listing.problems, self.source_state()]
        if self.depth and self.depth_options.reading:
            state.append(self.depth_options.reading)
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]

    def facts(self) -> dict[str, str]:
        """What the prepared data say of themselves."""
        return {
            "description": f"{self.TITLE}, category {self.category}",
            "homepage": self.HOMEPAGE,
            "citation": self.CITATION,
            "license": self.LICENSE,
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager
        self._problems = list(self.listing.problems)
        self.info.metadata["parts"] = {}
        listed = {sample.split for sample in self.listing.samples}
        return {
            split: self._generate_examples(split) for split in SPLITS if split in listed
        }

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        samples = [s for s in self.listing.samples if s.split == split]
        rows = self.info.metadata["parts"][split] = []
        title = f"Preparing {self.category} {split}"
        peak, sizes = 0, set()
        for key, sample in enumerate(tqdm(samples, title, disable=None)):
            content = self._checked(self.fill(sample))
            peak = max(peak, content.peak)
            sizes |= {content.size} - {None}
            rows.append([sample.id, sample.defect, content.digests()])
            yield key, self.store(sample, content)
        if split == "train":  # the first split
            self.info.metadata["peak"] = peak
            by_area = sorted(sizes, key=math.prod)
            self.info.metadata["sizes"] = by_area[:1] + by_area[1:][-1:]

    def _checked(self, sample: Sample) -> Content:
        """The sample's content; what is wrong with it goes on the list of problems."""
        content, problems = check(sample, self.reading)
        if not problems and content.masks:
            try:
                areas = np.float32(self.saturations(sample, content)).tolist()
                content = dataclasses.replace(content, saturations=tuple(areas))
            except UserError as error:
                problems = [str(error)]
        self._problems.extend(problems)
        return content

    def check_written(self) -> None:
        """Raise the UserError that tells every problem, where there are any."""
        if self._problems:
            raise problems_error(self._problems)


def _damaged(folder: str, part: str = "") -> UserError:
    whose = f" of {part}" if part else ""
    return UserError(
        f"{folder}: the prepared data{whose} are damaged; delete this folder and run "
        "again"
    )
