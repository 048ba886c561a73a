"""K-means from rows to fits."""

import jax.numpy as jnp
from jax import Array

from jaxmix import fitting, frame, seeding, validation
from jaxmix.data import Data
from jaxmix.kmeans.problem import KMeans
from jaxmix.reduction import Blocks
from jaxmix.solve.em import EM
from jaxmix.solver import Fit, Solver
from jaxmix.streams import Stream
from jaxmix.subsampling import Subsample
from jaxmix.typing import ArrayLike, Seeding


def fit(
    key: Array,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    empty: str = "farthest",
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike = seeding.kmeans_plus_plus,
    restarts: int = 8,
    subsample: Subsample | None = Subsample(),
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 300,
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 0.0,
    reduce: Blocks = Blocks(),
) -> Fit:
    r"""Fits K centers to rows: the best of several restarts by the cost J.

    $$\min_{u_1, \dots, u_K} \sum_n w_n \min_k |x_n - u_k|^2$$

    Traceable: only `k`, `restarts`, `max_steps` and the choice of functions are static, so `jax.vmap` and
    `jax.jit` go over keys, data sets, weights and tolerances.

    With at least K distinct rows, no cluster of a fit is empty, whatever ended it: an empty center moves onto the
    farthest row, and J falls. With fewer, J is 0, and the centers left over stay empty on rows already taken.

    Args:
      key: a PRNG key, for the seeding.
      x: array of shape (N, D), `Data`, or a `Stream`. Float32 and float64 are kept; integers become float.
      k: the number of centers, between 1 and the number of rows with positive weight.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.
      init: a function (key, data, k) -> centers from `seeding` or your own, or an array of shape (K, D), or
        (R, K, D) for R starts.
      restarts: how many starts, where `init` is a function.
      subsample: of many rows, and where `init` is a function, the restarts run on a sample, and the best on all: see
        `Subsample`. None: all `restarts` run on all rows, as they do anyway where these are few.
      num_active: integer from 1 to K, traced: how many of the K centers are on. The others stand at infinity, take no
        row and stay there. `jax.vmap` over it sweeps K in one compiled program.
      solver: any `Solver`; the default is Lloyd's algorithm.
      empty: what becomes of a center without rows: "farthest" moves it onto the row farthest from its own center,
        "keep" leaves it, and the fit may end with empty clusters.
      reduce: how sums over rows are taken, such as `Blocks(4096)` for 4096 rows at a time.
      max_steps: the most steps of each restart.
      rtol: relative tolerance on J: the change of J in a step. At 0, Lloyd stops at the exact fixed point; where many
        rows have no clusters that takes 400 to 800 steps, so raise `max_steps`.
      atol: absolute tolerance on J per unit of weight.

    Returns:
      A `Fit` whose `params` are the centers, of shape (K, D), and whose `loss` is J. Rows whose squares are out of the
      range of their dtype are fitted in another unit: J alone, in squared units of `x`, is then 0 or infinite.

    Raises:
      ValueError: naming the argument, if an argument is invalid.

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
    return fitting.fit(
        KMeans(empty),
        key,
        x,
        k,
        weights=weights,
        init=init,
        restarts=restarts,
        subsample=subsample,
        num_active=num_active,
        solver=solver,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        reduce=reduce,
    )


def fit_restarts(
    key: Array,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    empty: str = "farthest",
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike = seeding.kmeans_plus_plus,
    restarts: int = 8,
    subsample: Subsample | None = None,
    num_active: ArrayLike | None = None,
    solver: Solver = EM(),
    max_steps: int = 300,
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 0.0,
    reduce: Blocks = Blocks(),
) -> Fit:
    """Every restart of a K-means fit, each with its own status; `fit` with `subsample=None` is `best` of these.

    Takes and raises what `fit` does.

    Returns:
      A `Fit` with a leading axis R on every leaf; R is `restarts`, or the number of starts that `init` holds. With a
      `Subsample`, of those that were finished on all rows.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> fits = kmeans.fit_restarts(jax.random.key(0), jnp.arange(6.0)[:, None], 2, restarts=4)
      >>> fits.params.shape, fits.loss.shape
      ((4, 2, 1), (4,))
    """
    return fitting.fit_restarts(
        KMeans(empty),
        key,
        x,
        k,
        weights=weights,
        init=init,
        restarts=restarts,
        subsample=subsample,
        num_active=num_active,
        solver=solver,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        reduce=reduce,
    )


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
    data = validation.as_data(x, weights)
    validation.check_count(k, data)
    scale = frame.scale_of(data.x)
    return frame.unscaled(_lower_bound(frame.scaled_rows(data, scale), k), scale, power=2)


def _lower_bound(data: Data, k: int) -> Array:
    center = frame.mean(data.x, data.weights)
    rows = jnp.sqrt(data.weights)[:, None] * (data.x - center[None])
    # Singular values, not eigenvalues of the scatter: their rounding is squared with them. From the triangular
    # factor, which is small and has the same ones.
    factor = jnp.linalg.qr(rows if rows.shape[0] >= rows.shape[1] else rows.T, mode="r")
    values = jnp.linalg.svd(factor, compute_uv=False)
    left = values[k - 1 :] - 4 * values.shape[0] * jnp.finfo(values.dtype).eps * values[0]
    return jnp.sum(jnp.square(jnp.maximum(left, 0)))
