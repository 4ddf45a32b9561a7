"""The data sets, one file each: the places of their samples, licence, citation."""
