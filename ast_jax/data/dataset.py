"""The part of a data set that its own file in `datasets/` defines.

The builder (`ast_jax.data.builder`) does the rest: it checks, writes and reads data.
"""

import abc
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ast_jax.data import sample_record
from ast_jax.data.content import Content
from ast_jax.data.listing import SPLITS, Listing, Sample
from ast_jax.data.walk import files_below, subfolders
from ast_jax.errors import UserError
from ast_jax.files import expand_home


class DataSet(abc.ABC):
    """The facts of a data set, and the places of a category's files.

    Attributes:
        TITLE: the data set's name as its publisher writes it.
        HOMEPAGE: the publisher's page.
        TREE: the files expected below `dataset.root`, in one line.
        LICENSE: the licence of the data.
        CITATION: BibTeX.
        ACCOMPANYING: names of files that come with the data and belong to no part.
        ANY_NAME: whether its only category may have any name.
        HAS_DEPTH: whether it has point clouds.
        CLASS_NUMBERS: whether its ground truth holds class numbers instead of colours.
        KINDS: short name → defect type, if the publisher's script measures them apart.
        root: the folder as the publisher ships it.
        category: one of `categories(root)`.
        depth: whether point clouds are read too.
        listing: of the category's samples.
    """

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

    root: Path
    category: str
    depth: bool
    listing: Listing

    @classmethod
    def categories(cls, root: str | os.PathLike) -> tuple[str, ...]:
        """Returns the categories below `root`, sorted.

        Raises:
            UserError: there are none.
        """
        folder = expand_home(root)
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
        """Lists the category's samples below `self.root`; opens no file.

        Lists point clouds only if `self.depth`. Each missing file is a line of
        `problems`.
        """

    def list_files(self) -> Iterable[Path]:
        """All files in the samples' folders, also those of no sample."""
        return files_below(self.root / self.category)

    def accompanies(self, path: Path) -> bool:
        """Whether a file belongs to the data set but to no part."""
        return path.name in self.ACCOMPANYING

    def split_of(self, path: Path) -> str:
        """The split of one of the `nearby` files by its folder, or ""."""
        base = self.root / self.category
        top = path.relative_to(base).parts[0] if path.is_relative_to(base) else ""
        return "test" if top == "ground_truth" else top if top in SPLITS else ""

    def fill(self, sample: Sample) -> Sample:
        """Returns the sample with its data; a synthetic data set renders them here."""
        return sample

    def saturations(self, sample: Sample, content: Content) -> tuple[float, ...]:
        """The saturation area of each mask in pixels, or ().

        Raises:
            UserError: a mask has an unknown defect type.
        """
        del sample, content
        return ()

    def source_state(self) -> Any:
        """The sources of the prepared data, as JSON: file names, sizes, times."""
        return [
            [sample.id, sample.masks is None, *map(self._file_state, sample.paths)]
            for sample in self.listing.samples
        ]

    def store(self, sample: Sample, content: Content) -> dict[str, Any]:
        """Returns the record of a sample, of the types in `features`."""
        return sample_record.record(sample, content, depth=self.depth)

    def restore(self, record: dict[str, Any]) -> Content:
        """Returns the content of a record; the inverse of `store`."""
        return sample_record.content(record)

    def features(self) -> dict[str, Any]:
        """The tfds features of a record."""
        return sample_record.features(depth=self.depth)

    def _file_state(self, path: Path) -> list[Any]:
        status = path.stat()
        return [os.path.relpath(path, self.root), status.st_size, status.st_mtime_ns]
