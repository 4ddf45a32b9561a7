"""Everything that draws a page."""
