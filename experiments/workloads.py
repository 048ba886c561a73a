"""What is fitted in the benchmark: generated rows, starts, and the same steps in float64 NumPy to judge by."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

REGULARIZATION = 1e-6
BLOCK = 2**18
"""Numbers of a block of distances: what the float64 reference holds at a time, in cache."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows, starts and a number of steps, made anew from these numbers wherever they are needed."""

    model: str
    """"kmeans", or the covariances of a mixture: "full", "tied", "diagonal", "spherical"."""
    n: int
    d: int
    k: int
    steps: int
    data: str = "clusters"
    """"clusters": unit Gaussians whose means lie about 8 apart, whatever D; "noise": one unit Gaussian."""
    offset: float = 0.0
    """How many standard deviations of the rows they lie from the origin."""
    seed: int = 0

    @property
    def size(self) -> str:
        """N, D, K, as the issue of targets writes them."""
        return ",".join(short(number) for number in (self.n, self.d, self.k))


class Outcome(NamedTuple):
    """What a contender fitted, on the host.

    Attributes:
      params: (centers,), or (weights, means, covariances of shape (K, D, D)).
      loss: J, or the mean log-likelihood, as the contender itself reports it for `params`; NaN where it does not.
      labels: Array of shape (N,), the contender's own, of K-means.
      steps: how many steps it took.
      passes: E-steps, a closing evaluation among them.
    """

    params: tuple[np.ndarray, ...]
    loss: float
    labels: np.ndarray | None
    steps: int
    passes: int


def short(number: int) -> str:
    """20000 as "20k"."""
    for unit, name in ((10**6, "M"), (1000, "k")):
        if number >= unit and number % unit == 0:
            return f"{number // unit}{name}"
    return str(number)


def rows(case: Case) -> np.ndarray:
    """Float32 rows of shape (N, D)."""
    rng = np.random.default_rng([case.seed, case.n, case.d, case.k])
    x = rng.standard_normal((case.n, case.d), dtype=np.float32)
    if case.data == "clusters":
        # Farther apart in many dimensions, starts at random rows leave clusters empty, and every library then does
        # something else.
        means = np.float32(8 / np.sqrt(2 * case.d)) * rng.standard_normal((case.k, case.d), dtype=np.float32)
        x += means[rng.integers(case.k, size=case.n)]
    if case.offset:
        x += np.float32(case.offset * x.std())
    return x


def centers(case: Case, x: np.ndarray, restarts: int | None = None) -> np.ndarray:
    """Distinct rows to start from, of shape (K, D), or (R, K, D)."""
    rng = np.random.default_rng([case.seed + 1, case.n, case.d, case.k])
    drawn = [x[rng.choice(len(x), case.k, replace=False)] for _ in range(restarts or 1)]
    return np.stack(drawn) if restarts else drawn[0]


def mixture_start(case: Case, x: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, ...]:
    """Equal weights, given means and the covariance of all rows for each component, in float64, dense.

    One M-step from the nearest of random rows would leave components with fewer rows than features.
    """
    covariance = _in_family(np.cov(x.T.astype(float), bias=True).reshape(1, case.d, case.d), np.ones(1), case.model)
    covariance = covariance + REGULARIZATION * np.eye(case.d)
    return np.full(case.k, 1 / case.k), means.astype(float), np.repeat(covariance, case.k, axis=0)


def start(case: Case, x: np.ndarray) -> Any:
    """Centers of shape (K, D), or weights, means and dense covariances."""
    drawn = centers(case, x)
    return drawn if case.model == "kmeans" else mixture_start(case, x, drawn)


def nearest(centers: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Labels in float64."""
    return np.concatenate([scores.argmin(axis=1) for _, _, scores in _blocks(centers, x)])


def distances(centers: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, squared distances, and how much farther the second nearest center is, squared; float64."""
    labels, least, gap = np.empty(len(x), np.intp), np.empty(len(x)), np.empty(len(x))
    for part, block, scores in _blocks(centers, x):
        labels[part] = scores.argmin(axis=1)
        first = scores[np.arange(len(scores)), labels[part]]
        least[part] = np.maximum(first + np.square(block).sum(axis=1), 0)
        scores[np.arange(len(scores)), labels[part]] = np.inf
        gap[part] = scores.min(axis=1) - first
    return labels, least, gap


def _blocks(centers: np.ndarray, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some rows at a time, about the middle of the centers, and |u|^2 - 2 x.u of each with every center."""
    centers = centers.astype(float)
    middle = centers.mean(axis=0)
    moved = centers - middle
    size = max(BLOCK // max(centers.shape), 1)
    for begin in range(0, len(x), size):
        part = slice(begin, begin + size)
        block = x[part].astype(float) - middle
        yield part, block, np.square(moved).sum(axis=1) - block @ (2 * moved.T)


def kmeans_steps(centers: np.ndarray, x: np.ndarray, steps: int) -> np.ndarray:
    """Lloyd's algorithm in float64; a center without rows stays."""
    centers = centers.astype(float)
    for _ in range(steps):
        labels = nearest(centers, x)
        counts = np.bincount(labels, minlength=len(centers))
        sums = np.stack([np.bincount(labels, column, len(centers)) for column in x.T.astype(float)], axis=1)
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
    return centers


def mixture_pass(
    params: tuple[np.ndarray, ...], x: np.ndarray, family: str, *, step: bool = True
) -> tuple[float, tuple[np.ndarray, ...]]:
    """One E-step in float64: the mean log-likelihood of `params`, and, for `step`, what EM takes next."""
    weights, means, covariances = (np.asarray(part, float) for part in params)
    k, d = means.shape
    middle = x.mean(axis=0, dtype=float)
    inverse = np.linalg.inv(np.linalg.cholesky(covariances))
    constant = np.log(weights) + np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(axis=1) - d / 2 * np.log(2 * np.pi)
    counts, sums, squares, total = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d)), 0.0
    size = max(BLOCK // (k + d), 1)
    for begin in range(0, len(x), size):
        block = x[begin : begin + size].astype(float) - middle
        joint = np.empty((k, len(block)))
        for j in range(k):
            joint[j] = constant[j] - np.square((block - (means[j] - middle)) @ inverse[j].T).sum(axis=1) / 2
        highest = joint.max(axis=0)
        joint = np.exp(joint - highest)
        evidence = joint.sum(axis=0)
        total += float((np.log(evidence) + highest).sum())
        if not step:
            continue
        joint /= evidence
        counts += joint.sum(axis=1)
        sums += joint @ block
        for j in range(k):
            squares[j] += (joint[j, :, None] * block).T @ block
    if not step:
        return total / len(x), params
    shift = sums / counts[:, None]
    second = squares / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]
    covariances = _in_family(second, counts / len(x), family) + REGULARIZATION * np.eye(d)
    return total / len(x), (counts / len(x), shift + middle, covariances)


def _in_family(covariances: np.ndarray, weights: np.ndarray, family: str) -> np.ndarray:
    identity = np.eye(covariances.shape[-1])
    if family == "tied":
        return np.repeat(np.einsum("k,kij->ij", weights, covariances)[None], len(weights), axis=0)
    if family == "diagonal":
        return covariances * identity
    if family == "spherical":
        return np.trace(covariances, axis1=1, axis2=2)[:, None, None] / len(identity) * identity
    return covariances


class Judge:
    """The same steps in float64, and whether a contender's outcome agrees with them."""

    objective = 1e-4
    """The relative error allowed in J and in the mean log-likelihood."""
    covariance = 1e-3
    """The relative error allowed in a covariance, by the Frobenius norm."""
    tie = 1e-4
    """Two centers tie for a row where their squared distances differ by less than this share of the mean one."""
    assignment = 1e-2
    """The share of rows that may end in another cluster: a tie that falls the other way moves centers a little."""
    undecided = 1e-3
    """As `tie`, for rows that may end in any of their two clusters after some steps."""

    def __init__(self, case: Case, x: np.ndarray):
        self.case, self.x = case, x
        if case.model == "kmeans":
            self.params: tuple[np.ndarray, ...] = (kmeans_steps(start(case, x), x, case.steps),)
            self.labels, least, gap = distances(self.params[0], x)
            self.decided = gap > self.undecided * least.mean()
            self.loss = float(least.sum())
        else:
            self.params = start(case, x)
            for _ in range(case.steps):
                self.params = mixture_pass(self.params, x, case.model)[1]
            self.loss = mixture_pass(self.params, x, case.model, step=False)[0]

    def errors(self, outcome: Outcome) -> dict[str, float]:
        """The relative errors of the objective and of the covariances, and the shares of wrong and other labels."""
        if not all(np.isfinite(part).all() for part in outcome.params):
            return {"objective": float("inf")}
        errors = {}
        if self.case.model == "kmeans":
            labels, least, gap = distances(outcome.params[0], self.x)
            loss = float(least.sum())
            if outcome.labels is not None:
                # At its own centers a contender has to be right.
                wrong = (outcome.labels != labels) & (gap > self.tie * least.mean())
                errors["labels"] = float(wrong.mean())
            errors["assignment"] = float(((labels != self.labels) & self.decided).mean())
        else:
            loss = mixture_pass(outcome.params, self.x, self.case.model, step=False)[0]
            distance = np.linalg.norm(outcome.params[2] - self.params[2], axis=(1, 2))
            errors["covariances"] = float((distance / np.linalg.norm(self.params[2], axis=(1, 2))).max())
        # What a contender says of itself is held to the same, where it says it.
        said = [loss, outcome.loss] if np.isfinite(outcome.loss) else [loss]
        errors["objective"] = max(abs(value - self.loss) for value in said) / abs(self.loss)
        return errors

    def verdict(self, outcome: Outcome) -> str:
        """Empty, or what is wrong with an outcome."""
        allowed = {
            "objective": self.objective,
            "covariances": self.covariance,
            "assignment": self.assignment,
            "labels": 0.0,
        }
        wrong = [
            f"{name} off by {error:.1e}" for name, error in self.errors(outcome).items() if not error <= allowed[name]
        ]
        return ", ".join(wrong)
