"""The mode of a run: the networks see colour, depth, or both."""

import enum


class Mode(enum.StrEnum):
    """Colour, depth, or both; the values are those of the configuration's `mode`."""

    RGB = "rgb"
    DEPTH = "3d"
    BOTH = "rgb3d"

    @property
    def has_colour(self) -> bool:
        """Whether the networks see an image, through a backbone."""
        return self is not Mode.DEPTH

    @property
    def has_depth(self) -> bool:
        """Whether the networks see depth; then there is a foreground mask."""
        return self is not Mode.RGB
