"""Gaussian mixtures from rows to fits: seed, refine by K-means, run, choose."""

from functools import partial

import jax
from jax import Array

from jaxmix import batches, door, kmeans, seeding
from jaxmix.gmm import start
from jaxmix.gmm.covariance import Covariance, Full
from jaxmix.gmm.em import GaussianMixture
from jaxmix.gmm.given import as_starts
from jaxmix.gmm.model import GMM
from jaxmix.solve.em import EM
from jaxmix.solve.run import best, check, run_many
from jaxmix.types import ArrayLike, Data, Fit, Problem, Seeding, Solver


def fit_all(
    key: Array,
    x: ArrayLike | Data,
    k: int,
    *,
    family: type[Covariance] = Full,
    problem: Problem = GaussianMixture(),
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | GMM = seeding.kmeans_plus_plus,
    refine: int = 10,
    restarts: int = 8,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 500,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 1e-6,
) -> Fit:
    """Every restart of a mixture fit, each with its own status; `fit` is `best` of these.

    Takes and raises what `fit` does.

    Returns:
      A `Fit` with a leading axis R on every leaf; R is `restarts`, or the number of starts that `init` holds.

    Example:
      >>> import jax
      >>> from jaxmix import gmm
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> fits = gmm.fit_all(jax.random.key(1), x, 2, restarts=4)
      >>> fits.params.means.shape, fits.loss.shape
      ((4, 2, 2), (4,))
    """
    problem, solver, data, rtol, atol = check(problem, solver, door.as_data(x, weights), max_steps, rtol, atol)
    door.check_count(k, data)
    if not (isinstance(family, type) and hasattr(family, "moments")):
        raise ValueError(f"`family` must be a covariance family, such as gmm.Full, got {family!r}.")
    refine = door.check_int(refine, "refine", least=0)
    if isinstance(init, GMM):
        if num_active is not None:
            raise ValueError("`num_active` is for starts from centers; a `GMM` has its log weights: -inf is off.")
        starts = as_starts(init, k, data.x.shape[1], data.x.dtype)
    else:
        centers = seeding.starts(key, data, k, init=init, restarts=restarts, num_active=num_active)
        if callable(init) and refine:
            centers = run_many(kmeans.KMeans(), EM(), centers, data, max_steps=refine).params
        starts = _from_centers(centers, data, problem, family=family, kinds=door.kinds(problem))
    return run_many(problem, solver, starts, data, max_steps=max_steps, rtol=rtol, atol=atol)


@partial(jax.jit, static_argnames=("family", "kinds"))
def _from_centers(centers: Array, data: Data, problem: Problem, *, family: type[Covariance], kinds: tuple) -> GMM:
    def from_centers(centers: Array) -> GMM:
        return start.from_centers(centers, data, family=family, problem=problem)

    return batches.map_batches(from_centers, centers, batches.num_parallel())


def fit(
    key: Array,
    x: ArrayLike | Data,
    k: int,
    *,
    family: type[Covariance] = Full,
    problem: Problem = GaussianMixture(),
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | GMM = seeding.kmeans_plus_plus,
    refine: int = 10,
    restarts: int = 8,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 500,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 1e-6,
) -> Fit:
    r"""Fits a Gaussian mixture to rows: the best of several restarts by the log-likelihood.

    $$\max \sum_n w_n \log \sum_k \pi_k N(x_n \mid m_k, C_k)$$

    Each restart is a seeding, some steps of K-means, one M-step from its labels, and then the solver. Traceable:
    only `k`, `family`, `restarts`, `max_steps` and the choice of functions are static.

    Args:
      key: a PRNG key, for the seeding.
      x: array of shape (N, D), or `Data`. Float32 and float64 are kept; integers become float.
      k: the number of components, between 1 and the number of rows with positive weight.
      family: `Full`, `Tied`, `Diagonal`, `Spherical`, `TiedDiagonal` or `TiedSpherical`.
      problem: the `Problem`, such as `GaussianMixture(regularization=1e-3)` or `rows.Chunked` of one.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.
      init: a function (key, data, k) -> centers; an array of centers of shape (K, D), or (R, K, D) for R starts;
        or a `GMM`, whose leaves may have a leading axis R, and whose family then holds.
      refine: the most steps of K-means after the seeding, where `init` is a function; 0 for none.
      restarts: how many starts, where `init` is a function.
      num_active: integer from 1 to K, traced: how many of the K components are on. The others are switched off (log
        weight -inf) and stay so. `jax.vmap` over it sweeps K in one compiled program.
      solver: any `Solver`.
      max_steps: the most steps of each restart.
      rtol: relative tolerance on the loss.
      atol: absolute tolerance on the loss per unit of weight, in nats.

    Returns:
      A `Fit` whose `params` are a `GMM` and whose `loss` is minus the log-likelihood, and minus the log prior where
      the problem has one. A component that loses all its rows is switched off, or goes to the mode of the prior; one
      that collapses ends its restart as `NONFINITE`, and another wins.

    Raises:
      ValueError: naming the argument, for rows, weights, `k`, `family`, `init`, a regularization, a temperature, a
        prior, a key or tolerances that cannot be meant.

    References:
      Dempster, Laird and Rubin (1977), section 4.3; Bishop (2006), section 9.2.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> x = jnp.concatenate([jnp.linspace(0.0, 2.0, 20), jnp.linspace(8.0, 10.0, 20)])[:, None]
      >>> fit = gmm.fit(jax.random.key(0), x, 2).check()
      >>> sorted(fit.params.means.ravel().round(2).tolist())
      [1.0, 9.0]
    """
    fits = fit_all(
        key,
        x,
        k,
        family=family,
        problem=problem,
        weights=weights,
        init=init,
        refine=refine,
        restarts=restarts,
        num_active=num_active,
        solver=solver,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
    )
    return best(fits)
