"""Rows of the benchmark that predict: the labels that a mixture gives to rows, their time and their memory."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from sklearn.mixture import GaussianMixture

from experiments import targets
from experiments.peers import FAMILIES as OF_PEERS
from experiments.peers import REGULARIZATION, SKLEARN_FAMILIES, THREADS, TITLES, limited
from experiments.processes import LostError, answer
from experiments.races import scaled
from experiments.timing import Contender, best_threads, race
from experiments.workloads import Case, Outcome, centers, nearest, rows
from jaxmix import gmm, solve
from jaxmix.mixture import Mixture

FAMILIES = OF_PEERS | {"tied diagonal": gmm.TiedDiagonal, "tied spherical": gmm.TiedSpherical}
STEP = "jaxmix, an EM step"
STEPS = 5
TIE = 1e-2
"""Two components tie for a row where their log joint densities differ by less than this."""
JUDGED = 200_000
"""Rows whose labels are compared with those of float64."""


def mixture_of(case: Case, x: np.ndarray) -> Mixture:
    """The mixture to predict by: one M-step from the rows nearest to a few of them."""
    labels = nearest(centers(case, x), x[:JUDGED])
    problem = gmm.GaussianMixture(FAMILIES[case.model], regularization=REGULARIZATION)
    return gmm.start.from_labels(labels, x[:JUDGED], case.k, problem=problem)


def as_estimator(params: Mixture, family: str) -> GaussianMixture:
    """The same mixture as scikit-learn's, in float32."""
    covariances = np.asarray(params.covariances, np.float64)
    kind: Any = SKLEARN_FAMILIES[family]
    inverse = np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariances)), 1, 2)
    diagonals = np.diagonal(inverse, axis1=1, axis2=2)
    chosen = {"full": inverse, "tied": inverse[0], "diagonal": diagonals, "spherical": diagonals[:, 0]}[family]
    estimator = GaussianMixture(len(covariances), covariance_type=kind)
    estimator.weights_, estimator.means_ = np.asarray(params.weights), np.asarray(params.means)
    estimator.precisions_cholesky_ = chosen.astype(np.float32)
    return estimator


def verdict(params: Mixture, x: np.ndarray, labels: np.ndarray) -> str:
    """Empty, or how many labels are not those of float64, but of rows that tie."""
    x, labels = x[:JUDGED].astype(np.float64), labels[:JUDGED]
    joint = np.empty((len(params.means), len(x)))
    parts = (params.log_weights, params.means, params.covariances)
    for k, (log_weight, mean, covariance) in enumerate(zip(*(np.asarray(p, np.float64) for p in parts), strict=True)):
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        white = (x - mean) @ inverse.T
        joint[k] = log_weight + np.log(np.diagonal(inverse)).sum() - 0.5 * np.square(white).sum(axis=1)
    wrong = int((joint.max(axis=0) - joint[labels, np.arange(len(x))] > TIE).sum())
    return f"{wrong} labels are not those of float64" if wrong else ""


def _labels(found: Any) -> Outcome:
    return Outcome((), float("nan"), np.asarray(found), 0, 1)


def prediction_rows(case: Case, peers: Sequence[str], *, rounds: int, budget: float) -> list[dict[str, Any]]:
    """Milliseconds of `gmm.predict` of NumPy rows, beside scikit-learn, or a pass of EM where that lacks the family.

    Args:
      case: its `model` is the family.
      peers: names, of those that are there.
      rounds: the most turns each.
      budget: seconds after which no turn begins, once there were two.
    """
    x = rows(case)
    params = mixture_of(case, x)
    racers = [Contender("jaxmix", 0, lambda: jax.block_until_ready(gmm.predict(params, x)), _labels)]
    name = "sklearn" if "sklearn" in peers and case.model in SKLEARN_FAMILIES else STEP
    if name == "sklearn":
        estimator = as_estimator(params, case.model)
        for threads in THREADS:
            limits = partial(limited, name, threads)
            racers.append(Contender(name, threads, partial(estimator.predict, x), _labels, limits))
    else:
        own = jax.numpy.asarray(x)
        problem = gmm.GaussianMixture(FAMILIES[case.model], regularization=REGULARIZATION)

        def steps() -> Any:
            return jax.block_until_ready(
                solve.run(problem, solve.EM(), params, own, max_steps=STEPS, rtol=0, atol=0).loss
            )

        racers.append(Contender(name, 0, steps, lambda loss: Outcome((), float(loss), None, STEPS, STEPS + 1)))
    times, lost = race(racers, rounds=rounds, budget=budget)
    found, other = best_threads(times, "jaxmix"), best_threads(times, name)
    faults = [f"{who}: {why}" for who, why in lost.items()]
    for who, entry in (("jaxmix", found), (name, other)):
        labels = None if entry is None else entry[2].outcome.labels
        wrong = "" if labels is None else verdict(params, x, labels)
        faults += [f"{who}: {wrong}"] if wrong else []
    return [
        targets.row(
            "inference",
            f"predict, {case.model}",
            case.size,
            case.data,
            TITLES.get(name, name),
            unit="ms",
            own=scaled(found),
            other=scaled(other),
            threads=(other[2].contender.threads or "") if other else "",
            target=targets.of_prediction(case, name),
            fault="; ".join(faults),
        )
    ]


def prediction_memory_row(case: Case, compiled: bool, *, repeats: int, timeout: float) -> dict[str, Any]:
    """Peak resident memory of `gmm.predict` of all rows, beyond what the process held before it, x among it.

    Of the second call where it is `compiled`, else of the first.
    """
    taken, fault = [], ""
    try:
        job = {"case": dataclasses.asdict(case), "compiled": compiled}
        taken = [answer("predict", timeout=timeout, **job)["mebibytes"] for _ in range(repeats)]
    except LostError as error:
        fault = str(error)
    return targets.row(
        "inference",
        f"memory of predict, {case.model}, {'second' if compiled else 'first'} call",
        case.size,
        case.data,
        "",
        unit="MiB beyond x",
        own=(min(taken), float(np.median(taken))) if taken else targets.NONE,
        target=targets.PREDICTION_MEMORY if case.n == targets.LONG_SIZE else None,
        fault=fault,
        note="compiled before" if compiled else "compilation included",
    )
