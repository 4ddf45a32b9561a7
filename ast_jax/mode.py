"""The mode of a run: which of a part's data the networks see."""

import enum


class Mode(enum.StrEnum):
    """Colour alone, depth alone, or both; a configuration's `mode` is its value."""

    RGB = "rgb"
    DEPTH = "3d"
    BOTH = "rgb3d"

    @property
    def has_colour(self) -> bool:
        """Whether the networks see an image, through a backbone."""
        return self is not Mode.DEPTH

    @property
    def has_depth(self) -> bool:
        """Whether they see depth, which brings a foreground mask."""
        return self is not Mode.RGB
