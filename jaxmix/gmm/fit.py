"""Gaussian mixtures from rows to fits."""

from jax import Array

from jaxmix import fitting, seeding, validation
from jaxmix.data import Data
from jaxmix.gmm.steps import GaussianMixture
from jaxmix.kmeans import Lloyd
from jaxmix.mixture.assignment import Assignment, Soft
from jaxmix.mixture.components.gaussian import Covariance, Full, NormalInverseWishart
from jaxmix.mixture.model import Mixture
from jaxmix.reduction import Blocks
from jaxmix.solve.squarem import Squarem
from jaxmix.solver import Fit, Solver
from jaxmix.streams import Stream
from jaxmix.subsampling import Subsample
from jaxmix.typing import ArrayLike, Seeding


def fit(
    key: Array | None,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    covariance: type[Covariance] = Full,
    prior: NormalInverseWishart | None = None,
    regularization: ArrayLike | None = None,
    assignment: Assignment = Soft(),
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | Mixture = seeding.kmeans_plus_plus,
    refine: int = 10,
    restarts: int = 8,
    subsample: Subsample | None = Subsample(),
    num_active: ArrayLike | None = None,
    solver: Solver = Squarem(),
    max_steps: int = 500,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 1e-6,
    reduce: Blocks = Blocks(),
) -> Fit:
    r"""Fits a Gaussian mixture to rows: the best of several restarts by the log-likelihood.

    $$\max \sum_n w_n \log \sum_k \pi_k N(x_n \mid m_k, C_k)$$

    Each restart is a seeding, some steps of K-means, one M-step from its labels, and then the solver. Distances of
    the first two are in standard deviations of each feature (of 1024 rows, where there are more), but where the family
    has one variance for all features. Features in other units have the same fit, to rounding: each in its own, or all
    in one for such a family; a prior and a regularization must be in these units too. Traceable: only `k`,
    `covariance`, `restarts`, `max_steps` and the choice of functions are static.

    Args:
      key: a PRNG key, for the seeding; None where `init` is not a function.
      x: array of shape (N, D), `Data`, or a `Stream`. Float32 and float64 are kept; integers become float.
      k: the number of components, between 1 and the number of rows with positive weight.
      covariance: `Full`, `Tied`, `Diagonal`, `Spherical`, `TiedDiagonal` or `TiedSpherical`.
      prior: a `NormalInverseWishart`, such as `fraley_raftery(x, k)`, or None.
      regularization: variances of a known noise of the rows, one or one for each feature, traced, in squared units of
        x. None: `noise_floor(x)`, which keeps every fit of finite rows finite. 0 is maximum likelihood. `Fit.loss` has
        the noise in it, the functions of a mixture, such as `log_likelihood`, do not. See `Gaussian`.
      assignment: `Soft()` for EM, `Hard()` for classification EM, `Tempered(beta)` for annealing.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.
      init: a function (key, data, k) -> centers; an array of centers of shape (K, D), or (R, K, D) for R starts;
        or a `Mixture` of the same covariance family, whose leaves may have a leading axis R.
      refine: the most steps of K-means after the seeding, where `init` is a function; 0 for none.
      restarts: how many starts, where `init` is a function.
      subsample: of many rows, and where `init` is a function, the restarts run on a sample, and the best on all: see
        `Subsample`. None: all `restarts` run on all rows, as they do anyway where these are few.
      num_active: integer from 1 to K, traced: how many of the K components are on. The others are switched off (log
        weight -inf) and stay so. `jax.vmap` over it sweeps K in one compiled program.
      solver: any `Solver`. The default is EM, accelerated; `EM()` where its own steps are wanted.
      max_steps: the most steps of each restart.
      rtol: relative tolerance on the loss.
      atol: absolute tolerance on the loss per unit of weight, in nats.
      reduce: how sums over rows are taken, such as `Blocks(4096)` for 4096 rows at a time.

    Returns:
      A `Fit` whose `params` are a `Mixture` and whose `loss` is minus the log-likelihood, and minus the log prior where
      there is one. A component that loses all its rows is switched off, or goes to the mode of the prior; one
      that collapses ends its restart as `NONFINITE`, and another wins.

    Raises:
      ValueError: naming the argument, if rows, weights, `k`, `covariance`, `init`, a regularization, a temperature, a
        prior, a key or tolerances are invalid.

    References:
      Dempster, Laird and Rubin (1977), section 4.3; Bishop (2006), section 9.2.2; Varadhan and Roland (2008) for the
      default solver.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> x = jnp.concatenate([jnp.linspace(0.0, 2.0, 20), jnp.linspace(8.0, 10.0, 20)])[:, None]
      >>> fit = gmm.fit(jax.random.key(0), x, 2).throw()
      >>> sorted(fit.params.means.ravel().round(2).tolist())
      [1.0, 9.0]
    """
    return fitting.fit(
        GaussianMixture(covariance, prior, regularization, assignment),
        key,
        x,
        k,
        weights=weights,
        init=init,
        refine=refinement(refine),
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
    key: Array | None,
    x: ArrayLike | Data | Stream,
    k: int,
    *,
    covariance: type[Covariance] = Full,
    prior: NormalInverseWishart | None = None,
    regularization: ArrayLike | None = None,
    assignment: Assignment = Soft(),
    weights: ArrayLike | None = None,
    init: Seeding | ArrayLike | Mixture = seeding.kmeans_plus_plus,
    refine: int = 10,
    restarts: int = 8,
    subsample: Subsample | None = None,
    num_active: ArrayLike | None = None,
    solver: Solver = Squarem(),
    max_steps: int = 500,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 1e-6,
    reduce: Blocks = Blocks(),
) -> Fit:
    """Every restart of a mixture fit, each with its own status; `fit` with `subsample=None` is `best` of these.

    Takes and raises what `fit` does.

    Returns:
      A `Fit` with a leading axis R on every leaf; R is `restarts`, or the number of starts that `init` holds. With a
      `Subsample`, of those that were finished on all rows.

    Example:
      >>> import jax
      >>> from jaxmix import gmm
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> fits = gmm.fit_restarts(jax.random.key(1), x, 2, restarts=4)
      >>> fits.params.means.shape, fits.loss.shape
      ((4, 2, 2), (4,))
    """
    return fitting.fit_restarts(
        GaussianMixture(covariance, prior, regularization, assignment),
        key,
        x,
        k,
        weights=weights,
        init=init,
        refine=refinement(refine),
        restarts=restarts,
        subsample=subsample,
        num_active=num_active,
        solver=solver,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        reduce=reduce,
    )


def refinement(refine: int) -> Lloyd | None:
    """So many steps of K-means on seeded centers, or none."""
    return Lloyd(refine) if validation.check_int(refine, "refine", least=0) else None
