"""Reads other programs' files, and writes files for them."""
