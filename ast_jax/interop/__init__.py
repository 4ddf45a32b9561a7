"""Reading other programs' files and writing for them."""
