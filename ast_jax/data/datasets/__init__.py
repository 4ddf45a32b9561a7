"""The data sets, one file each: where their samples lie and whose they are."""
