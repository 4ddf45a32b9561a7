"""The tfds builder that all data sets share: list, check, prepare, read.

It checks the samples that the data set's own `list_samples` lists, writes them as
array_record in the order of the listing, without TensorFlow, and reads them as `Parts`.
Prepared data hold the publisher's encoded bytes; of a point cloud only z.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf.json_format import ParseError
from tqdm import tqdm

from ast_jax.data.content import Content, FileOptions, check
from ast_jax.data.dataset import DataSet
from ast_jax.data.decode import DEFAULT_DEPTH, estimate_bit_depth
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.ignored_files import unused_files
from ast_jax.data.layout import near_match
from ast_jax.data.listing import SPLITS, Sample, problems_error
from ast_jax.data.part import Entry, Part, Parts
from ast_jax.data.selection import Selection, leave_out, require_training
from ast_jax.data.tfds_records import Records
from ast_jax.errors import UserError
from ast_jax.files import expand_home


class PartsBuilder(DataSet, Records, skip_registration=True):
    """The builder of one category; every data set is a subclass."""

    VERSION = tfds.core.Version("1.1.0")

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
        """Lists the samples of a category; decodes and writes nothing yet.

        Args:
            category: one of `categories(root)`.
            data_dir: folder of prepared data; they are in `name/category-hash`.
            root: the folder as the publisher ships it.
            depth: whether to read the point clouds too.
            depth_options: unit and missing value of the point clouds.
            bit_depth: how many of 16 bits the camera uses; 0 to estimate it.
            exclude: names of training pictures to leave out, see `exclude.find_ids`.
            excluded: ids of these pictures, as a run has recorded them, instead of
                names.

        Raises:
            UserError: the folder, category, point clouds or good parts are missing.
        """
        self.root = expand_home(root)
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
        self.listing, ids = leave_out(listing, exclude, excluded, *where)
        self.selection = Selection(self.listing, ids, tuple(unused), self.root)
        name = f"{re.sub(r'[^a-zA-Z0-9_.-]+', '_', category)}-{self._source_hash()}"
        data_dir = os.fspath(expand_home(data_dir))
        try:
            super().__init__(name, data_dir)
        except (ValueError, ParseError) as error:  # from JSON of an earlier run
            raise _damage(os.path.join(data_dir, self.name, name)) from error

    @classmethod
    def from_config(cls, dataset: Any, category: str, **options: Any) -> "PartsBuilder":
        """Makes the builder of a category from the `dataset` section of a config.

        Args:
            dataset: the section.
            category: one of `categories(dataset.root)`.
            options: further arguments of the class.
        """
        return cls(
            category=category, data_dir=dataset.data_dir, root=dataset.root, **options
        )

    def prepare(self) -> None:
        """Checks and writes the data, unless that is done.

        Two processes may prepare the same data at once; the first result is kept.

        Raises:
            UserError: files are missing or damaged (the log names all of them), or the
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
        except (OSError, RuntimeError) as error:  # array_record raises a RuntimeError
            if not self.data_path.exists():
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{self.data_dir}: prepared data cannot be written ({reason}); "
                    "choose another --config.dataset.data_dir"
                ) from error
            self.info.read_from_directory(self.data_dir)

    @property
    def bit_depth(self) -> int:
        """How many of 16 bits count: the configured ones, or an estimate."""
        return self._bit_depth or estimate_bit_depth(self._peak)

    @property
    def file_options(self) -> FileOptions:
        """The options for reading files."""
        return FileOptions(self.depth_options, self.bit_depth, self.CLASS_NUMBERS)

    @property
    def _peak(self) -> int:
        """The largest value of the 16-bit training images; 0 if there are none."""
        try:
            return int((self.info.metadata or {}).get("peak", 0))
        except (ValueError, TypeError) as error:
            raise _damage(self.data_dir) from error

    def parts(self, split: str) -> Parts:
        """The prepared parts of "train", "validation" or "test"; may be empty."""
        try:
            metadata = self.info.metadata
            rows = metadata["parts"].get(split, [])
        except (ValueError, KeyError) as error:
            raise _damage(self.data_dir) from error
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
        unused = unused_files(self.list_files(), used)
        unused = [path for path in unused if not self.accompanies(path)]
        if not self.depth:  # the clouds are unused on purpose
            unused = [path for path in unused if "xyz" not in path.parts]
        return unused

    def _read(self, source: Sequence[Any], index: int, entry: Entry) -> Part:
        try:
            content = self.restore(source[index])
            intact = content.digests() == entry.digests
        except UserError:
            raise
        # array_record, zlib and tfds raise many types on damaged bytes.
        except Exception as error:
            logging.error("%s: %s", entry.id, error)
            intact = False
        if not intact:
            raise _damage(self.data_dir, entry.id)
        return content.decode(entry, self.file_options)

    def _source_hash(self) -> str:
        state = [self.depth, self.listing.problems, self.source_state()]
        if self.depth and self.depth_options.reading:
            state.append(self.depth_options.reading)
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]

    def facts(self) -> dict[str, str]:
        """Facts that are stored with the prepared data."""
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
            content = self._check(self.fill(sample))
            peak = max(peak, content.peak)
            sizes |= {content.size} - {None}
            rows.append([sample.id, sample.defect, content.digests()])
            yield key, self.store(sample, content)
        if split == "train":  # the first split
            self.info.metadata["peak"] = peak
            by_area = sorted(sizes, key=math.prod)
            self.info.metadata["sizes"] = by_area[:1] + by_area[1:][-1:]

    def _check(self, sample: Sample) -> Content:
        """Returns the sample's content; adds its faults to the list of problems."""
        content, problems = check(sample, self.file_options)
        if not problems and content.masks:
            try:
                areas = np.float32(self.saturations(sample, content)).tolist()
                content = dataclasses.replace(content, saturations=tuple(areas))
            except UserError as error:
                problems = [str(error)]
        self._problems.extend(problems)
        return content

    def check_written(self) -> None:
        """Raises a UserError with every problem, if there is one."""
        if self._problems:
            raise problems_error(self._problems)


def _damage(folder: str, part: str = "") -> UserError:
    whose = f" of {part}" if part else ""
    return UserError(
        f"{folder}: the prepared data{whose} are damaged; delete this folder and run "
        "again"
    )
