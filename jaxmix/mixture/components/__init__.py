"""Components of mixtures, one file each."""
