"""Whole mixture fits, from rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import blobs
from mixtures import exact, loss

from jaxmix import Status, as_data, datasets, gmm, kmeans, seeding, solve

KEY = jax.random.key(0)
X = blobs(80, 2, 3, spread=12.0)


def test_old_faithful_with_two_full_components_reaches_the_published_likelihood():
    fits = gmm.fit_restarts(KEY, datasets.old_faithful(), 2, restarts=32, atol=1e-12).throw()
    # The regularization of 1e-6 costs less than 1e-4 nats.
    np.testing.assert_allclose(-fits.loss.min(), -1130.26396, atol=1e-4)
    assert (np.abs(fits.loss - 1130.26396) < 1e-3).mean() > 0.9


@pytest.mark.slow
def test_old_faithful_with_three_tied_components_reaches_that_of_mclust_from_nearly_every_start():
    fits = gmm.fit_restarts(
        KEY, datasets.old_faithful(), 3, covariance=gmm.Tied, restarts=32, atol=1e-12, max_steps=2000
    )
    assert jnp.mean(-fits.loss >= -1126.3160 - 1e-4) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularization": -0.1}, "`regularization` must be finite and at least 0"),
        (
            {"assignment": gmm.Tempered(0.0)},
            "`inverse_temperature` must be finite and above",
        ),
        ({"covariance": "full"}, "`covariance` must be a covariance family"),
        ({"solver": solve.OverRelaxed(eta=-3.0)}, "`eta` must be finite and at least 1"),
        ({"solver": solve.Squarem(growth=1.0)}, "`growth` must be finite and above 1"),
        ({"solver": solve.Stepwise(5, KEY, decay=-1.0)}, "`decay` must be finite and at least 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gmm.fit(KEY, X, 2, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [solve.LBFGS(), pytest.param(solve.Optax(optax.adam, 0.1), marks=pytest.mark.slow)],
    ids=["lbfgs", "adam"],
)
def test_the_units_of_x_do_not_end_a_gradient_fit(solver):
    # In the right unit the loss of the start is 0, which says nothing of what is left to gain.
    problem = exact()
    start = gmm.start.from_labels(np.arange(len(X)) // 7 % 3, X, 3, problem=problem)
    unit = np.exp(float(-loss(problem, start, X)) / X.size)
    scaled = X * unit
    start = gmm.start.from_labels(np.arange(len(X)) // 7 % 3, scaled, 3, problem=problem)
    fit = solve.run(problem, solver, start, scaled, max_steps=60, atol=1e-4)
    assert abs(fit.trace[0]) < 1e-6
    assert fit.num_steps >= 10
    em = solve.run(problem, solve.EM(), start, scaled, max_steps=60, atol=1e-4)
    assert fit.trace[0] - fit.loss > 0.5 * (em.trace[0] - em.loss)


@pytest.mark.slow
def test_fit_finds_separated_clusters_with_the_most_and_the_least_free_family():
    for family in (gmm.Full, gmm.TiedSpherical):
        fit = gmm.fit(KEY, X, 3, covariance=family, restarts=4).throw()
        labels = np.asarray(gmm.predict(fit.params, X))
        assert all(len(np.unique(labels[k::3])) == 1 for k in range(3))
        assert isinstance(fit.params.covariance, family)


@pytest.mark.slow
def test_init_may_be_centers_or_a_mixture():
    start = gmm.start.from_centers(X[:3], X)
    from_centers = gmm.fit(KEY, X, 3, init=X[:3], max_steps=20)
    from_mixture = gmm.fit(KEY, X, 3, init=start, max_steps=20)
    np.testing.assert_allclose(from_centers.loss, from_mixture.loss, rtol=1e-12)
    fits = gmm.fit_restarts(KEY, X, 3, init=jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start), max_steps=20)
    assert fits.loss.shape == (2,)
    with pytest.raises(ValueError, match=r"`init.means` must have shape \(2, 2\)"):
        gmm.fit(KEY, X, 2, init=start)


@pytest.mark.slow
def test_fit_vmaps_over_the_regularization():
    def fitted(regularization):
        return gmm.fit(KEY, X, 3, regularization=regularization, restarts=2, max_steps=20).loss

    strengths = jnp.array([1e-6, 1e-2, 1.0])
    losses = jax.vmap(fitted)(strengths)
    np.testing.assert_allclose(losses, [fitted(s) for s in strengths], rtol=1e-10)
    assert (np.diff(losses) > 0).all()


@pytest.mark.slow
def test_float32_is_kept_and_holds_far_from_the_origin():
    near = gmm.fit(KEY, X, 3, init=X[:3], max_steps=10)
    far = gmm.fit(KEY, (X + 1e4).astype(np.float32), 3, init=(X[:3] + 1e4).astype(np.float32), max_steps=10)
    assert far.params.means.dtype == far.loss.dtype == jnp.float32
    np.testing.assert_allclose(far.loss, near.loss, rtol=1e-3)


@pytest.mark.slow
def test_refinement_is_some_steps_of_kmeans_from_the_seeding_of_rows_in_units_of_their_spread():
    scale = gmm.GaussianMixture().calibrate(as_data(X)).seeding_scale()
    assert scale is not None
    data = as_data(X * scale[None])
    seeds = seeding.starts(KEY, data, 4, restarts=3)
    refined = jnp.stack([kmeans.fit(KEY, data, 4, init=seed, max_steps=10).params for seed in seeds])
    seeds, refined = (centers / scale[None, None] for centers in (seeds, refined))
    for refine, centers in ((0, seeds), (10, refined)):
        fits = gmm.fit_restarts(KEY, X, 4, restarts=3, refine=refine, max_steps=5)
        given = gmm.fit_restarts(KEY, X, 4, init=centers, max_steps=5)
        np.testing.assert_allclose(fits.loss, given.loss, rtol=1e-10)
    with pytest.raises(ValueError, match="`refine`"):
        gmm.fit(KEY, X, 4, refine=-1)


@pytest.mark.slow
def test_components_that_are_off_leave_the_fit_of_the_others():
    seeds = seeding.starts(KEY, as_data(X), 5, restarts=3)
    for num_active in (1, 3):
        fits = gmm.fit_restarts(KEY, X, 5, init=seeds, num_active=num_active, max_steps=20)
        alone = gmm.fit_restarts(KEY, X, num_active, init=seeds[:, :num_active], max_steps=20)
        np.testing.assert_allclose(fits.trace, alone.trace, rtol=1e-10)
        np.testing.assert_allclose(fits.params.means[:, :num_active], alone.params.means, rtol=1e-8)
        assert (fits.params.log_weights[:, num_active:] == -jnp.inf).all()
    for bad in (0, 6):
        with pytest.raises(ValueError, match="`num_active` must be between 1 and 5"):
            gmm.fit(KEY, X, 5, num_active=bad)
    hidden = jax.vmap(lambda j: gmm.fit(KEY, X, 5, num_active=j, max_steps=5, restarts=2).status)(jnp.array([0, 2, 6]))
    assert (hidden == Status.NONFINITE).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="parameters say themselves"):
        gmm.fit(KEY, X, 3, init=jax.tree.map(lambda leaf: leaf[0], alone.params), num_active=2)
