"""What the library is held to on two CPU cores in float32, and the rows that say whether it is met."""

from typing import Any, NamedTuple

from experiments.workloads import Case

NAN = float("nan")
NONE = (NAN, NAN)
"""No minimum and no median."""


class Target(NamedTuple):
    """A bound on a ratio, or on jaxmix's own figure.

    Attributes:
      bound: the figure.
      of: "ratio": peer / jaxmix; "own": jaxmix's figure.
      most: the bound is the most allowed, not the least.
    """

    bound: float
    of: str = "ratio"
    most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound:g}"

    def met(self, own: float, ratio: float) -> str:
        """Whether a figure keeps to the bound: "yes" or "no"."""
        value = ratio if self.of == "ratio" else own
        return "yes" if (value <= self.bound if self.most else value >= self.bound) else "no"


KMEANS_SIZES = (
    (20_000, 2, 8, 20),
    (100_000, 16, 16, 10),
    (100_000, 64, 64, 10),
    (1_000_000, 16, 64, 5),
    (200_000, 128, 256, 5),
    (50_000, 784, 10, 5),
)
"""N, D, K, and how many steps: few where they are long, more where a call would show."""
FULL_SIZES = ((20_000, 2, 8, 20), (100_000, 8, 16, 5), (100_000, 32, 16, 5), (50_000, 64, 32, 5))
OTHER_SIZES = ((100_000, 8, 16, 5), (100_000, 32, 16, 5))

_SKLEARN = dict(zip(((n, d, k) for n, d, k, _ in KMEANS_SIZES), (5, 2.3, 1.3, 1.8, 1.15, 1.2), strict=True))
_FULL = dict(zip(((n, d, k) for n, d, k, _ in FULL_SIZES), (25, 15, 5, 3), strict=True))
_OTHER = {(100_000, 8, 16): 8, (100_000, 32, 16): 5}
_GMMX = {(20_000, 2, 8): 12, (100_000, 32, 16): 4}
_KMEANS_PEERS = {"sklearnex": 1.3, "faiss": 1.3, "ott": 5}

RESTARTS = {"kmeans": Target(5), "full": Target(12)}
SWEEP = Target(10)
MEMORY = {"kmeans": Target(90, "own", most=True), "full": Target(180, "own", most=True)}
FIRST_CALL = {"kmeans": Target(0.5, "own", most=True), "full": Target(1.2, "own", most=True)}
IMPORT = Target(0.7, "own", most=True)
GROWTH = Target(11, most=True)
PREDICTION = Target(3)
PREDICTION_SIZE = (200_000, 16, 16)
LONG_SIZE = 2_000_000
LONG_PREDICTION = Target(3000, "own", most=True)
PREDICTION_MEMORY = Target(200, "own", most=True)


def of_steps(case: Case, peer: str) -> Target | None:
    """The target of a step against a peer, where the size is one of those that have one."""
    size = (case.n, case.d, case.k)
    if case.model == "kmeans":
        bound = _SKLEARN.get(size) if peer == "sklearn" else _KMEANS_PEERS.get(peer) if size in _SKLEARN else None
    elif peer == "gmmx":
        bound = _GMMX.get(size) if case.model == "full" else None
    else:
        bound = (_FULL if case.model == "full" else _OTHER).get(size)
    return None if bound is None else Target(bound)


def of_prediction(case: Case, peer: str) -> Target | None:
    """The target of a prediction, in time or against scikit-learn, where the size has one."""
    if case.n == LONG_SIZE:
        return LONG_PREDICTION
    return PREDICTION if (case.n, case.d, case.k) == PREDICTION_SIZE and peer == "sklearn" else None


def row(
    job: str,
    what: str,
    size: str,
    data: str,
    peer: str,
    *,
    unit: str,
    own: tuple[float, float] = NONE,
    other: tuple[float, float] = NONE,
    threads: int | str = "",
    steps: int | str = "",
    target: Target | None = None,
    fault: str = "",
    note: str = "",
) -> dict[str, Any]:
    """A row of the table; of each pair the first is the minimum, the second the median.

    A row with a fault has no ratio, and its target is not met.
    """
    ratios = tuple(NAN if fault or not a else b / a for a, b in zip(own, other, strict=True))
    met = ["" if target is None else "no" if fault else target.met(own[i], ratios[i]) for i in (1, 0)]
    return {
        "job": job,
        "what": what,
        "N,D,K": size.replace(",", ", "),
        "data": data,
        "steps": steps,
        "peer": peer,
        "threads": threads,
        "unit": unit,
        "jaxmix min": own[0],
        "jaxmix median": own[1],
        "peer min": other[0],
        "peer median": other[1],
        "ratio min": ratios[0],
        "ratio median": ratios[1],
        "target": "" if target is None else str(target),
        "met median": met[0],
        "met min": met[1],
        "check": f"VOID: {fault}" if fault else "ok",
        "note": note,
    }
