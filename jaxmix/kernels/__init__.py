"""The hot spots, one file each: the same numbers as the plain functions, sooner, picked per platform."""
