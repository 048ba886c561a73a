"""Many starts to convergence, and a sweep over K: one program of jaxmix against a loop of scikit-learn."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import targets
from experiments.peers import THREADS, TITLES, as_mixture, limited, model_of, sklearn_mixture
from experiments.processes import LostError, answer
from experiments.timing import Contender, Times, best_threads, race
from experiments.workloads import Case, Outcome, centers, mixture_start, rows
from jaxmix import fit_restarts, solve, sweep

TOLERANCE = {"kmeans": 0.0, "full": 1e-4}
"""K-means ends at its fixed point; mixtures where the mean log-likelihood changes by less."""
AGREE = 1e-4
"""The relative error allowed in the best objective of all starts, and in the median over starts."""


def restart_rows(
    case: Case, *, restarts: int, parallel: Sequence[int], rounds: int, peers: Sequence[str]
) -> list[dict]:
    """The library with its default `num_parallel` against scikit-learn in a loop, and against itself with others."""
    x = rows(case)
    drawn = centers(case, x, restarts)
    racers = [_ours(case, x, drawn, None), *(_ours(case, x, drawn, number) for number in parallel)]
    if "sklearn" in peers:
        racers += [_sklearn(case, x, drawn, threads) for threads in THREADS]
    times, lost = race(racers, rounds=rounds, budget=60, by_pass=False)
    own = best_threads(times, "jaxmix")
    table = []
    for name in dict.fromkeys(racer.name for racer in racers[1:]):
        found = best_threads(times, name)
        fault = _fault(own[2] if own else None, found[2] if found else None) or lost.get(name, "")
        agreed = f"{_agreeing(own[2], found[2]):.0%} of starts end alike; " if own and found else ""
        steps = f"{own[2].outcome.steps} steps, peer {found[2].outcome.steps}" if own and found else ""
        table.append(
            targets.row(
                "restarts",
                f"{restarts} starts, {'K-means' if case.model == 'kmeans' else case.model}",
                case.size,
                case.data,
                TITLES.get(name, name),
                unit="s",
                own=(own[0], own[1]) if own else targets.NONE,
                other=(found[0], found[1]) if found else targets.NONE,
                threads=found[2].contender.threads or "" if found else "",
                target=targets.RESTARTS[case.model] if name == "sklearn" and restarts == 32 else None,
                fault=fault,
                note=agreed + steps,
            )
        )
    return table


def _agreeing(own: Times, other: Times) -> float:
    a, b = own.outcome.params[0], other.outcome.params[0]
    return float(np.mean(np.abs(a - b) <= AGREE * np.abs(a)))


def _fault(own: Times | None, other: Times | None) -> str:
    if own is None or other is None:
        return "did not end"
    a, b = own.outcome.params[0], other.outcome.params[0]
    errors = {"best": abs(a.min() - b.min()) / abs(a.min()), "median": np.median(np.abs(a - b) / np.abs(a))}
    return ", ".join(f"{name} off by {error:.1e}" for name, error in errors.items() if not error <= AGREE)


def _stacked(case: Case, x: np.ndarray, drawn: np.ndarray) -> Any:
    if case.model == "kmeans":
        return jnp.asarray(drawn)
    begun = as_mixture(mixture_start(case, x, drawn[0]), case.model)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(drawn), axis=0), begun)
    return repeated._replace(components=repeated.components._replace(means=jnp.asarray(drawn)))


def _ours(case: Case, x: np.ndarray, drawn: np.ndarray, num_parallel: int | None) -> Contender:
    data, starts, problem = jnp.asarray(x), _stacked(case, x, drawn), model_of(case)
    options: Any = {"max_steps": case.steps, "rtol": 0.0, "atol": TOLERANCE[case.model], "num_parallel": num_parallel}

    def read(fits: Any) -> Outcome:
        return Outcome((np.asarray(fits.loss, float),), targets.NAN, None, int(fits.num_steps.sum()), 1)

    return Contender(
        "jaxmix" if num_parallel is None else f"jaxmix, num_parallel = {num_parallel}",
        0,
        lambda: jax.block_until_ready(solve.run_many(problem, solve.EM(), starts, data, **options)),
        read,
    )


def _sklearn(case: Case, x: np.ndarray, drawn: np.ndarray, threads: int) -> Contender:
    from sklearn.cluster import KMeans

    maker: Any = KMeans
    if case.model == "kmeans":
        fits = [maker(case.k, init=u, n_init=1, max_iter=case.steps, tol=0).fit for u in drawn]
    else:
        given = [mixture_start(case, x, u) for u in drawn]
        fits = [sklearn_mixture(case, g, max_iter=case.steps, tol=TOLERANCE[case.model]) for g in given]

    def read(done: list[Any]) -> Outcome:
        losses = [fit.inertia_ if case.model == "kmeans" else -fit.score(x) * len(x) for fit in done]
        return Outcome((np.asarray(losses, float),), targets.NAN, None, sum(int(fit.n_iter_) for fit in done), 1)

    return Contender("sklearn", threads, lambda: [fit(x) for fit in fits], read, partial(limited, "sklearn", threads))


def cold_sweep(case: Case, name: str, threads: int, restarts: int) -> dict[str, Any]:
    """K = 1, ..., case.k from the same starts in this process, which has compiled nothing yet; run by a child."""
    x = rows(case)
    drawn = centers(case, x, restarts)
    ks = range(1, case.k + 1)
    if name == "jaxmix":
        # The backend starts with the import of the data, not with the fit.
        data: Any = jax.block_until_ready(jnp.asarray(x))
        starts = _stacked(case, x, drawn)
        begin = time.perf_counter()
        fits = _sweep_program(case, data, starts).fits
        best = np.asarray(jnp.min(fits.loss, axis=1)).tolist()
        return {"seconds": time.perf_counter() - begin, "best": best, "steps": int(fits.num_steps.sum())}
    with limited("sklearn", threads):
        givens = [[mixture_start(dataclasses.replace(case, k=k), x, u[:k]) for u in drawn] for k in ks]
        begin = time.perf_counter()
        best, steps = [], 0
        for k, given in zip(ks, givens, strict=True):
            own = dataclasses.replace(case, k=k)
            done = [_sklearn_one(own, x, u[:k], g) for u, g in zip(drawn, given, strict=True)]
            steps += sum(int(fit.n_iter_) for fit in done)
            # The bound is at hand for free; a score would cost scikit-learn another pass.
            best.append(min(fit.inertia_ if case.model == "kmeans" else -fit.lower_bound_ * len(x) for fit in done))
        return {"seconds": time.perf_counter() - begin, "best": [float(value) for value in best], "steps": steps}


def _sklearn_one(case: Case, x: np.ndarray, start: np.ndarray, given: tuple[np.ndarray, ...]) -> Any:
    from sklearn.cluster import KMeans

    maker: Any = KMeans
    if case.model == "kmeans":
        return maker(case.k, init=start, n_init=1, max_iter=case.steps, tol=0).fit(x)
    return sklearn_mixture(case, given, max_iter=case.steps, tol=TOLERANCE[case.model])(x)


def _sweep_program(case: Case, data: jax.Array, starts: Any) -> sweep.Sweep:
    key = jax.random.key(0)
    options: Any = {"max_steps": case.steps, "atol": TOLERANCE[case.model]}
    model = model_of(case)

    def fits(k: jax.Array) -> Any:
        if case.model == "kmeans":
            return fit_restarts(model, key, data, case.k, init=starts, num_active=k, **options)
        on = jnp.arange(case.k) < k
        log_weights = jnp.where(on, -jnp.log(k.astype(data.dtype)), -jnp.inf)
        begun = starts._replace(log_weights=jnp.broadcast_to(log_weights[None], starts.log_weights.shape))
        return fit_restarts(model, key, data, case.k, init=begun, **options)

    return sweep.grid(fits, {"k": jnp.arange(1, case.k + 1)}, "restart")


def sweep_row(case: Case, *, restarts: int, rounds: int, threads: Sequence[int] = THREADS) -> dict[str, Any]:
    """The sweep in fresh processes, compilation included, against scikit-learn's loop in fresh processes."""
    ways = [("jaxmix", 0), *(("sklearn", number) for number in threads)]
    answers: dict[tuple[str, int], list[Any]] = {way: [] for way in ways}
    fault = ""
    try:
        for _ in range(rounds):
            for name, number in ways:
                job = {"case": dataclasses.asdict(case), "name": name, "threads": number, "restarts": restarts}
                answers[name, number].append(answer("sweep", timeout=600, **job))
    except LostError as error:
        fault = str(error)
    whole = {way: [a["seconds"] for a in got] for way, got in answers.items() if got}
    peers = {way: seconds for way, seconds in whole.items() if way[0] == "sklearn"}
    own, other, used, note = targets.NONE, targets.NONE, 0, ""
    if ("jaxmix", 0) in whole and peers:
        own = (min(whole["jaxmix", 0]), float(np.median(whole["jaxmix", 0])))
        least = min(min(seconds) for seconds in peers.values())
        other = (least, min(float(np.median(seconds)) for seconds in peers.values()))
        chosen = min(peers, key=lambda way: float(np.median(peers[way])))
        used = chosen[1]
        ours, theirs = answers["jaxmix", 0][0], answers[chosen][0]
        note = f"compile included, fresh processes; {ours['steps']} steps, peer {theirs['steps']}"
        a, b = np.asarray(ours["best"]), np.asarray(theirs["best"])
        # The peer's bound is one M-step older than its parameters: within the tolerance of the stopping rule.
        slack = AGREE * np.abs(a) + TOLERANCE[case.model] * case.n
        if not fault and not (np.abs(a - b) <= 2 * slack).all():
            fault = f"best objective off by {np.max(np.abs(a - b) / np.abs(a)):.1e}"
    return targets.row(
        "restarts",
        f"K = 1..{case.k} x {restarts}, {'K-means' if case.model == 'kmeans' else case.model}",
        case.size,
        case.data,
        TITLES["sklearn"],
        unit="s",
        own=own,
        other=other,
        threads=used or "",
        target=targets.SWEEP if case.n == 2000 else None,
        fault=fault,
        note=note,
    )
