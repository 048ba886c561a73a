"""K-means from rows to fits: seed, run, choose."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import door, frame, seeding
from jaxmix.kernels import nearest
from jaxmix.kmeans import steps
from jaxmix.kmeans.problem import KMeans
from jaxmix.solve.em import EM
from jaxmix.solve.loop import padded
from jaxmix.solve.run import best, check, framed, in_own_units, run_framed
from jaxmix.types import ArrayLike, Data, Fit, Problem, Seeding, Solver, Status


def fit_all(
    key: Array,
    x: ArrayLike | Data,
    k: int,
    *,
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike = seeding.kmeans_plus_plus,
    restarts: int = 8,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    problem: Problem = KMeans(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
) -> Fit:
    """Every restart of a K-means fit, each with its own status; `fit` is `best` of these.

    Takes and raises what `fit` does.

    Returns:
      A `Fit` with a leading axis R on every leaf; R is `restarts`, or the number of starts that `init` holds.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> fits = kmeans.fit_all(jax.random.key(0), jnp.arange(6.0)[:, None], 2, restarts=4)
      >>> fits.params.shape, fits.loss.shape
      ((4, 2, 1), (4,))
    """
    fits, scale = _fits(
        key, door.as_data(x, weights), k, init, restarts, num_active, solver, problem, max_steps, rtol, atol
    )
    return in_own_units(fits, scale)


def _fits(
    key: Array,
    data: Data,
    k: int,
    init: Seeding | ArrayLike,
    restarts: int,
    num_active: ArrayLike | None,
    solver: Solver,
    problem: Problem,
    max_steps: int,
    rtol: ArrayLike,
    atol: ArrayLike,
) -> tuple[Fit, Array | None]:
    """The fits of rows times a scale, and that scale: J may be out of range in the units of the rows."""
    problem, solver, data, rtol, atol = check(problem, solver, data, max_steps, rtol, atol)
    door.check_count(k, data)
    starts = seeding.starts(key, data, k, init=init, restarts=restarts, num_active=num_active)
    starts, data, atol, scale = framed(problem, starts, data, atol)
    fits = run_framed(problem, solver, starts, data, max_steps=max_steps, rtol=rtol, atol=atol)
    if not isinstance(problem, KMeans) or problem.empty == "keep":
        return fits, scale
    lloyd = isinstance(solver, EM)
    if lloyd and door.is_concrete(fits.status, rtol, atol) and not (np.asarray(fits.status).any() or rtol or atol):
        # All are exact fixed points of Lloyd, without an empty cluster that could be filled: nothing to compile.
        return fits, scale
    return _filled(fits, data, rtol, atol, lloyd=lloyd), scale


def fit(
    key: Array,
    x: ArrayLike | Data,
    k: int,
    *,
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike = seeding.kmeans_plus_plus,
    restarts: int = 8,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    problem: Problem = KMeans(),
    max_steps: int = 300,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 0.0,
) -> Fit:
    r"""Fits K centers to rows: the best of several restarts by the cost J.

    $$\min_{u_1, \dots, u_K} \sum_n w_n \min_k |x_n - u_k|^2$$

    Traceable: only `k`, `restarts`, `max_steps` and the choice of functions are static, so `jax.vmap` and
    `jax.jit` go over keys, data sets, weights and tolerances.

    With at least K distinct rows, no cluster of a fit is empty, whatever ended it (with `KMeans()` itself as the
    problem: an empty center moves onto the farthest row then, and J falls). With fewer, J is 0, and the centers left
    over stay empty on rows already taken.

    Args:
      key: a PRNG key, for the seeding.
      x: array of shape (N, D), or `Data`. Float32 and float64 are kept; integers become float.
      k: the number of centers, between 1 and the number of rows with positive weight.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.
      init: a function (key, data, k) -> centers from `seeding` or your own, or an array of shape (K, D), or
        (R, K, D) for R starts.
      restarts: how many starts, where `init` is a function.
      num_active: integer from 1 to K, traced: how many of the K centers are on. The others stand at infinity, take no
        row and stay there. `jax.vmap` over it sweeps K in one compiled program.
      solver: any `Solver`; the default is Lloyd's algorithm.
      problem: any `Problem` over centers, such as `KMeans(empty="keep")` or `rows.Chunked(KMeans(), 4096)`.
      max_steps: the most steps of each restart.
      rtol: relative tolerance on J. At tolerance 0, Lloyd stops at the exact fixed point.
      atol: absolute tolerance on J per unit of weight.

    Returns:
      A `Fit` whose `params` are the centers, of shape (K, D), and whose `loss` is J. Rows whose squares are out of the
      range of their dtype are fitted in another unit: J alone, in squared units of `x`, is then 0 or infinite.

    Raises:
      ValueError: naming the argument, for rows, weights, `k`, `init`, a key or tolerances that cannot be meant.

    References:
      Lloyd (1982); Arthur and Vassilvitskii (2007) for the default start.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = kmeans.fit(jax.random.key(0), x, 2)
      >>> sorted(fit.params.ravel().tolist()), fit.loss.item()
      ([0.5, 9.5], 1.0)
    """
    fits, scale = _fits(
        key, door.as_data(x, weights), k, init, restarts, num_active, solver, problem, max_steps, rtol, atol
    )
    return in_own_units(best(fits), scale)


def lower_bound(x: ArrayLike | Data, k: int, *, weights: ArrayLike | None = None) -> Array:
    r"""A bound that no choice of K centers can beat: how far a fit may be from the unknown optimum.

    $$J \ge \operatorname{tr} S - \sum_{i=1}^{K-1} \lambda_i(S), \qquad
      S = \sum_n w_n (x_n - \bar x)(x_n - \bar x)^T$$

    Args:
      x: array of shape (N, D), or `Data`.
      k: the number of centers.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in squared units of `x`; 0 where K - 1 reaches the rank of S. A margin for rounding is
      taken off, so that it is a bound in float32 too.

    Raises:
      ValueError: as `fit` does.

    References:
      Ding and He (2004), section 3, the bounds on $J_K$.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> x = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
      >>> round(kmeans.lower_bound(x, 2).item(), 4)
      1.0
    """
    data = door.as_data(x, weights)
    door.check_count(k, data)
    scale = frame.scale_of(data.x)
    return frame.unscaled(_lower_bound(frame.scaled_rows(data, scale), k), scale, power=2)


@partial(jax.jit, static_argnames="lloyd")
def _filled(fits: Fit, data: Data, rtol: Array, atol: Array, *, lloyd: bool) -> Fit:
    # As in `fit_all`, where values are traced: then this costs nothing.
    exact = lloyd & jnp.all(fits.status == Status.CONVERGED) & (rtol == 0) & (atol == 0)

    def has_empty(params: Array) -> Array:
        return jnp.any((nearest.sums(params, data).counts == 0) & steps.is_on(params))

    empty = jax.lax.cond(
        exact, lambda _: jnp.array(False), lambda params: jnp.any(jax.lax.map(has_empty, params)), fits.params
    )
    return jax.lax.cond(empty, _without_empty, lambda fits, _: fits, fits, data)


def _without_empty(fits: Fit, data: Data) -> Fit:
    params, loss = jax.lax.map(lambda params: steps.fill_empty(params, data), fits.params)
    changed = jnp.any(params != fits.params, axis=(1, 2)) & (fits.status != Status.NONFINITE)
    loss = jnp.where(changed, loss, fits.loss)
    trace = jax.vmap(padded)(fits.trace, fits.num_steps, loss)
    params = jnp.where(changed[:, None, None], params, fits.params)
    return fits._replace(params=params, loss=loss, trace=trace)


def _lower_bound(data: Data, k: int) -> Array:
    rows = jnp.sqrt(data.weights)[:, None] * (data.x - data.origin[None])
    # Singular values, not eigenvalues of the scatter: their rounding is squared with them. From the triangular
    # factor, which is small and has the same ones.
    factor = jnp.linalg.qr(rows if rows.shape[0] >= rows.shape[1] else rows.T, mode="r")
    values = jnp.linalg.svd(factor, compute_uv=False)
    left = values[k - 1 :] - 4 * values.shape[0] * jnp.finfo(values.dtype).eps * values[0]
    return jnp.sum(jnp.square(jnp.maximum(left, 0)))
