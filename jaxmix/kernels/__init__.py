"""The hot spots, one file each: sums over rows in the order that the platform runs soonest."""
