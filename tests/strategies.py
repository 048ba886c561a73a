"""What the properties draw: data of few shapes, since compile time is most of the cost, and of every degeneracy."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

NUM_ROWS, NUM_FEATURES = 18, 2

coarse = st.integers(-4, 4).map(float)  # many ties and duplicates
fine = st.floats(-1e3, 1e3, allow_nan=False, allow_subnormal=False, width=32)
large = st.floats(-1e12, 1e12, allow_nan=False, allow_subnormal=False)
matrices = st.sampled_from([coarse, fine, large]).flatmap(
    lambda elements: hnp.arrays(np.float64, (NUM_ROWS, NUM_FEATURES), elements=elements)
)
generic = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(NUM_ROWS, NUM_FEATURES)).round(6)
)
counts = hnp.arrays(np.int64, NUM_ROWS, elements=st.integers(0, 3)).filter(lambda w: w.sum() > 0)


SPOILED = {
    "as they are": lambda x: x,
    "a constant column": lambda x: np.hstack([x[:, :1], 0 * x[:, 1:] + 7]),
    "a column twice": lambda x: x[:, [0, 0]],
    "rows twice": lambda x: x[np.arange(NUM_ROWS) // 2],
    "two distinct rows": lambda x: x[np.arange(NUM_ROWS) % 2],
    "all rows equal": lambda x: x[[0] * NUM_ROWS],
    "an outlier": lambda x: np.vstack([x[:-1], 1e6 + x[-1:]]),
    "tiny": lambda x: 1e-150 * x,
}
degenerate = st.builds(lambda x, how: SPOILED[how](x), matrices | generic, st.sampled_from(sorted(SPOILED)))
TURNS = st.floats(0, 2 * np.pi)


def rotation(angle: float) -> np.ndarray:
    """A turn of the two features."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
