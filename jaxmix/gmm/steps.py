"""The Gaussian mixture model, and its E-step and M-step as functions."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmix import validation
from jaxmix.contracts import check_choice
from jaxmix.data import Data
from jaxmix.frame import Frame
from jaxmix.mixture.assignment import Assignment, Soft
from jaxmix.mixture.components.gaussian import Covariance, Full, Gaussian, NormalInverseWishart
from jaxmix.mixture.model import Mixture, Stats, check_mixture, component_of
from jaxmix.mixture.problem import MixtureModel
from jaxmix.mixture.start import validated
from jaxmix.reduction import Blocks
from jaxmix.typing import ArrayLike


def GaussianMixture(  # noqa: N802
    covariance: type[Covariance] = Full,
    prior: NormalInverseWishart | None = None,
    regularization: ArrayLike | None = None,
    assignment: Assignment = Soft(),
) -> MixtureModel:
    r"""The problem to maximize $\sum_n w_n \log \sum_k \pi_k N(x_n \mid m_k, C_k)$ over a `Mixture`.

    $$\ell = -\sum_n w_n \log \sum_k \pi_k N(x_n \mid m_k, C_k) - \log p(m, C, \pi)$$

    Args:
      covariance: the covariance family.
      prior: a `NormalInverseWishart`, or None for maximum likelihood.
      regularization: variances of a known noise of the rows, one or one for each feature, traced, in squared units of
        x. None: those of `noise_floor` of the rows that the model is fitted to. See `Gaussian`.
      assignment: `Soft()` for EM, `Hard()` for classification EM, `Tempered(beta)` for annealing.

    Returns:
      `MixtureModel(Gaussian(covariance, prior, regularization), assignment)`.

    References:
      Dempster, Laird and Rubin (1977), section 4.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm, solve
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> solve.run(gmm.GaussianMixture(), solve.EM(), mixture, jnp.array([[1.0], [3.0]])).params.means.item()
      2.0
    """
    return MixtureModel(Gaussian(covariance, prior, regularization), assignment)


def e_step(
    params: Mixture, x: ArrayLike | Data, *, weights: ArrayLike | None = None, assignment: Assignment = Soft()
) -> Stats:
    r"""Shares every row among the components, and sums what the M-step needs.

    $$N_k = \sum_n w_n r_{nk}, \qquad \sum_n w_n r_{nk} (x_n - m_k), \qquad \sum_n w_n r_{nk} (x_n - m_k)(x_n - m_k)^T$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D), or `Data`.
      weights: array of shape (N,), non-negative; None for ones.
      assignment: `Soft()`, `Hard()` or `Tempered(beta)`.

    Returns:
      `Stats`, additive over rows.

    Raises:
      ValueError: for bad data.

    References:
      Bishop (2006), section 9.2.2, step 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> gmm.e_step(mixture, [[0.0], [1.0]]).counts.tolist()
      [1.0, 1.0]
    """
    problem = validated(MixtureModel(component_of(params, None), assignment))
    data = validation.as_rows(x, weights, width=params.means.shape[-1])
    return _e_step(problem, params, data)


@jax.jit
def _e_step(problem: MixtureModel, params: Mixture, data: Data) -> Stats:
    frame = Frame(data.origin)
    found: Any = problem.moved(params, frame)
    rows = Blocks().cut(frame.apply(data.x), data.weights, problem.footprint(params.means.shape[0], data.x.shape[1]))
    return Blocks()(found[0].e_step, found[0].prepare(found[1]), rows)


def m_step(
    stats: Stats,
    params: Mixture,
    *,
    regularization: ArrayLike = 0.0,
    prior: NormalInverseWishart | None = None,
) -> Mixture:
    r"""The mixture that maximizes the expected complete log-likelihood, plus the log prior where there is one.

    $$\pi_k = \frac{N_k}{\sum_j N_j}, \qquad m_k' = m_k + \frac{1}{N_k} \sum_n w_n r_{nk} (x_n - m_k)$$

    A component without rows is switched off, with its mean and covariance as they were; with a prior, it goes to the
    prior's mode and stays on.

    Args:
      stats: what `e_step` returned.
      params: the mixture that `e_step` was given.
      regularization: of shape () or (D,), variances of a noise of the rows, which add to those of the components, in
        squared units of x.
      prior: a `NormalInverseWishart`, or None.

    Returns:
      A `Mixture` of the same family. A covariance that is not positive definite becomes NaN, and so does a mean whose
      component is narrower than the rounding of its place.

    References:
      Bishop (2006), equations 9.24 to 9.26; Fraley and Raftery (2007), section 3, with a prior.

    Example:
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> fitted = gmm.m_step(gmm.e_step(mixture, [[1.0], [3.0]]), mixture)
      >>> fitted.means.item(), fitted.covariances.item()
      (2.0, 1.0)
    """
    check_mixture(params, "params")
    if prior is not None:
        check_choice(prior, "prior", NormalInverseWishart, "gmm.weak_prior(x)")
    problem = GaussianMixture(type(params.covariance), prior, jnp.asarray(regularization))
    return _m_step(problem, stats, params)


@jax.jit
def _m_step(problem: MixtureModel, stats: Stats, params: Mixture) -> Mixture:
    return problem.m_step(stats, params)


@jax.jit
def recenter(stats: Stats, params: Mixture, new: Mixture) -> Stats:
    r"""The statistics of the same rows with the same responsibilities, about other means.

    $$\sum_n w_n r_{nk} (x_n - m_k') = \sum_n w_n r_{nk} (x_n - m_k) + N_k (m_k - m_k')$$

    Args:
      stats: what `e_step` returned.
      params: the mixture that `e_step` was given.
      new: a mixture with other means.

    Returns:
      `Stats`; the loss is left as it was.

    References:
      Steiner's theorem of parallel axes.

    Example:
      >>> from jaxmix import gmm
      >>> mixture, other = (gmm.mixture([1.0], [[mean]], [[[1.0]]]) for mean in (0.0, 2.0))
      >>> gmm.recenter(gmm.e_step(mixture, [[1.0], [3.0]]), mixture, other).moments.second.item()
      2.0
    """
    check_mixture(new, "new")
    return MixtureModel(component_of(params, None)).recenter(stats, params, new)
