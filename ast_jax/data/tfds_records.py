"""tfds without TensorFlow and network; records keep the order of their files.

Every override of a private method of tfds is in this file. For a new release of tfds,
check this file.
"""

import abc
import types
from typing import Any

import tensorflow_datasets as tfds


class _Info(tfds.core.DatasetInfo):
    """A DatasetInfo that does not ask tfds' public bucket."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; tfds would leave an empty temporary folder each time."""


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set that tfds writes from local samples and reads as array_record."""

    def __init__(self, config: str, data_dir: str):
        """Opens the folder `data_dir/name/config`, which may not exist yet.

        Raises:
            ValueError, google.protobuf.json_format.ParseError: its files are damaged.
        """
        super().__init__(
            config=tfds.core.BuilderConfig(name=config),
            data_dir=data_dir,
            file_format="array_record",
        )

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """The tfds features of a record."""

    @abc.abstractmethod
    def facts(self) -> dict[str, str]:
        """Description, homepage, …, which tfds writes beside the records."""

    def check_written(self) -> None:
        """Is called after the last record; an error here discards all records."""

    def write(self) -> None:
        """Writes the records of every split, or none."""
        tfds.disable_progress_bar()  # the builder shows one bar of its own
        self.download_and_prepare()

    # Any, because a run-time type checker would read a record of a Sequence.
    def read(self, split: str) -> Any:
        """The records of a split; images are the bytes that were written."""
        skip = {
            name: tfds.decode.SkipDecoding()
            for name, feature in self.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        return self.as_data_source(split, decoders=skip)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
            **self.facts(),
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        super()._download_and_prepare(*args, **kwargs)
        self.check_written()

    # There is no download, so tfds needs no folder for it and logs nothing about it.
    def _make_download_manager(self, **kwargs: Any) -> Any:
        del kwargs
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    # tfds warns about every configuration that is not in a list.
    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        del version
        return builder_config
