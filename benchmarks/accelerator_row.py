"""A row of the table of `benchmarks.accelerator`."""

import dataclasses
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: name, value (None if it does not exist), unit, aim."""

    figure: str
    value: float | str | None
    unit: str = ""
    aim: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**fields)

    def text(self) -> str:
        """Value and unit, to three digits."""
        if self.value is None:
            return ""
        value = self.value if isinstance(self.value, str) else f"{self.value:.3g}"
        return f"{value} {self.unit}".rstrip()
