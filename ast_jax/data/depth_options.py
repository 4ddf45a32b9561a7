"""What a depth map's numbers mean and how a part is told from its background."""

import dataclasses
from typing import Any

UNITS = ("auto", "m", "mm")
METRES = {"m": 1.0, "mm": 1e-3}


@dataclasses.dataclass(frozen=True)
class DepthOptions:
    """The `depth` section of a configuration; its defaults are the authors' numbers.

    A run's options go wherever its parts are read: training, evaluation, prediction.

    Attributes:
        unit: "m", "mm", or "auto": integers are millimetres, floats metres.
        missing: the value in the files, beside 0 and NaN, that means "no depth"; 0 for
            no other.
        foreground_distance: metres off the background plane from which a pixel belongs
            to the part.
        fill_rounds: how many pixels far gaps are filled from their border.
        dilation: side in pixels of the box by which the foreground grows, at 8 pixels a
            position of the feature map.
    """

    unit: str = "auto"
    missing: float | int = 0.0
    foreground_distance: float | int = 7e-3
    fill_rounds: int = 3
    dilation: int = 8

    @classmethod
    def from_config(cls, config: Any) -> "DepthOptions":
        """The options of a configuration, which may have more in its section."""
        section = config.depth
        return cls(**{field.name: section[field.name] for field in _fields()})

    def metres(self, kind: str) -> float:
        """Metres a unit of a file whose values are floats (`kind` "f") or integers."""
        auto = "m" if kind == "f" else "mm"
        return METRES[auto if self.unit == "auto" else self.unit]

    @property
    def reading(self) -> dict[str, Any]:
        """What changes z as it is read, where it is not the default."""
        return self._changed("unit", "missing")

    @property
    def processing(self) -> dict[str, Any]:
        """What changes depth channels and foreground, where it is not the default."""
        return self._changed("foreground_distance", "fill_rounds", "dilation")

    def _changed(self, *names: str) -> dict[str, Any]:
        default = DepthOptions()
        values = {name: getattr(self, name) for name in names}
        return {k: v for k, v in values.items() if v != getattr(default, k)}


def _fields() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(DepthOptions)
