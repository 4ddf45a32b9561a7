"""tfds as it is used here: no TensorFlow, no network, records in their files' order.

Every override of tfds' private methods is in this file, so that a new release of tfds
has to be held against one file alone.
"""

import abc
import types
from typing import Any

import tensorflow_datasets as tfds


class _Info(tfds.core.DatasetInfo):
    """A DatasetInfo that doesn't look for itself in tfds' public bucket."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: tfds would leave an empty temporary folder each time."""


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set that tfds writes from samples at hand and reads as array_record."""

    def __init__(self, config: str, data_dir: str):
        """Open the folder `data_dir/name/config`, written or not yet.

        Raises:
            ValueError, google.protobuf.json_format.ParseError: what lies in the folder
                is damaged.
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
        """What tfds writes beside the records: description, homepage, …"""

    def check_written(self) -> None:
        """Called behind the last record; an error here discards all of them."""

    def write(self) -> None:
        """Write every split's records, or none."""
        tfds.disable_progress_bar()  # its three bars tell less than one of ours
        self.download_and_prepare()

    # Not Sequence, of which a run-time type checker would read a record to check it.
    def read(self, split: str) -> Any:
        """The records of a split, images as the bytes that were written."""
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

    # Nothing is downloaded: tfds needs no folder for it, and has nothing to announce.
    def _make_download_manager(self, **kwargs: Any) -> Any:
        del kwargs
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    # tfds warns of every configuration that isn't in a list.
    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        del version
        return builder_config
