"""Options of depth: the meaning of a map's numbers, and the part's foreground."""

import dataclasses
from typing import Any

UNITS = ("auto", "m", "mm")
METRES = {"m": 1.0, "mm": 1e-3}


@dataclasses.dataclass(frozen=True)
class DepthOptions:
    """The `depth` section of a configuration; the defaults are the authors' numbers.

    Training, evaluation and prediction of a run use the same options.

    Attributes:
        unit: "m", "mm", or "auto": integers are millimetres, floats metres.
        missing: a value in the files, beside 0 and NaN, that means "no depth"; 0 if
            there is no other.
        foreground_distance: a pixel at more than this distance from the background
            plane, in metres, belongs to the part.
        fill_rounds: width in pixels of the border of a gap that is filled.
        dilation: side in pixels of the box by which the foreground grows; a position of
            the feature map has 8 pixels.
    """

    unit: str = "auto"
    missing: float | int = 0.0
    foreground_distance: float | int = 7e-3
    fill_rounds: int = 3
    dilation: int = 8

    @classmethod
    def from_config(cls, config: Any) -> "DepthOptions":
        """Takes the options from a configuration, whose section may have more."""
        section = config.depth
        return cls(**{field.name: section[field.name] for field in _fields()})

    def metres(self, kind: str) -> float:
        """Metres per unit of a file with floats (`kind` "f") or integers."""
        auto = "m" if kind == "f" else "mm"
        return METRES[auto if self.unit == "auto" else self.unit]

    @property
    def reading(self) -> dict[str, Any]:
        """The options that change z as it is read, unless they have the default."""
        return self._changes("unit", "missing")

    @property
    def processing(self) -> dict[str, Any]:
        """The options of channels and foreground, unless they have the default."""
        return self._changes("foreground_distance", "fill_rounds", "dilation")

    def _changes(self, *names: str) -> dict[str, Any]:
        default = DepthOptions()
        values = {name: getattr(self, name) for name in names}
        return {k: v for k, v in values.items() if v != getattr(default, k)}


def _fields() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(DepthOptions)
