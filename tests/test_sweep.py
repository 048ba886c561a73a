"""Sweeps: one program for the whole grid, the same numbers as single fits, axes by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import EXACT, blobs

from jaxmix import Status, as_data, datasets, fit_restarts, gmm, kmeans, metrics, seeding, solve, sweep
from jaxmix.mixture import Mixture

KEY = jax.random.key(0)
X = blobs(60, 2, 3, spread=20.0)
# Equivalent programs part where a tolerance near rounding ends one of them earlier.
FIXED: dict[str, Any] = {"max_steps": 15, "atol": 0.0}


@pytest.fixture(scope="module")
def large():
    """K = 1..10, three regularizations, 32 restarts: one executable, run once."""

    def sweep_all(key, x, ks, regularizations):
        def fits(k, regularization):
            return gmm.fit_restarts(key, x, 10, regularization=regularization, restarts=32, num_active=k, **FIXED)

        return sweep.grid(fits, {"k": ks, "regularization": regularizations}, "restart")

    arguments = (KEY, jnp.asarray(X), jnp.arange(1, 11), jnp.array([1e-6, 1e-3, 1e-1]))
    executable = jax.jit(sweep_all).lower(*arguments).compile()
    return executable(*arguments)


@pytest.mark.slow
def test_a_large_sweep_is_one_program_and_equals_single_fits(large):
    assert large.names == ("k", "regularization", "restart")
    assert large.shape == (10, 3, 32)
    assert large.fits.loss.shape == (10, 3, 32)
    assert not (large.fits.status == Status.NONFINITE).any()
    for k, i in ((1, 0), (4, 2), (10, 1)):
        regularization = float(large.values[1][i])
        single = gmm.fit_restarts(KEY, X, 10, regularization=regularization, restarts=32, num_active=k, **FIXED)
        point = large.at(k=k - 1, regularization=i)
        np.testing.assert_allclose(point.fits.trace, single.trace, rtol=1e-9)
        np.testing.assert_allclose(point.fits.params.means, single.params.means, rtol=1e-6, atol=1e-6)
        assert (jnp.isneginf(point.fits.params.log_weights).sum(axis=1) == 10 - k).all()
    # And those equal a mixture that never had more components, from the same centers.
    data = as_data(X)
    data = data._replace(scale=gmm.GaussianMixture().calibrate(data).seeding_scale())
    centers = seeding.starts(KEY, data, 10, restarts=32)[:2, :4]
    refined = kmeans.Lloyd(10)(centers, data)
    alone = gmm.fit_restarts(KEY, X, 4, init=refined, regularization=1e-3, **FIXED)
    np.testing.assert_allclose(large.fits.trace[3, 1, :2], alone.trace, rtol=1e-8)


def test_best_takes_the_lowest_finite_loss_along_an_axis(large):
    best = large.best("restart")
    assert best.names == ("k", "regularization")
    np.testing.assert_array_equal(best.fits.loss, large.fits.loss.min(axis=2))
    both = large.best("restart", "regularization")
    assert both.names == ("k",)
    np.testing.assert_array_equal(both.fits.loss, large.fits.loss.min(axis=(1, 2)))
    # More components never fit worse, where restarts suffice and nothing is added.
    assert (np.diff(best.fits.loss[:4, 0]) < 0).all()


def test_map_gives_criteria_that_count_only_what_is_on(large):
    best = large.best("restart")
    bic = best.map(lambda fit: metrics.bic(fit.params, X))
    assert bic.shape == (10, 3)
    assert int(bic[:, 2].argmin()) == 2, "three clusters far apart"
    params = jax.tree.map(lambda leaf: leaf[2, 0], best.fits.params)
    on = ~jnp.isneginf(params.log_weights)
    small = Mixture(params.log_weights[on], jax.tree.map(lambda leaf: leaf[on], params.components))
    np.testing.assert_allclose(bic[2, 0], metrics.bic(small, X), rtol=1e-10)


def test_records_are_a_table_of_python_numbers(large):
    best = large.best("restart")
    bic = best.map(lambda fit: metrics.bic(fit.params, X))
    records = best.to_records(bic=bic)
    assert len(records) == 30
    assert records[4]["k"] == 2
    np.testing.assert_allclose(records[4]["regularization"], 1e-3)
    assert records[4]["bic"] == bic[1, 1].item()
    assert records[4]["loss"] == best.fits.loss[1, 1].item()
    assert records[4]["status"] == Status(best.fits.status[1, 1].item()).name
    with pytest.raises(ValueError, match="`bic` must have the sweep's shape"):
        best.to_records(bic=bic[0])


@pytest.mark.parametrize("num_parallel", [1, *(pytest.param(num, marks=pytest.mark.slow) for num in (2, 5, 99))])
def test_num_parallel_does_not_change_the_numbers(num_parallel):
    def fit(key, rtol):
        return kmeans.fit(key, X, 4, rtol=rtol, restarts=2)

    keys = jax.random.split(KEY, 3)
    swept = sweep.grid(fit, {"key": keys, "rtol": jnp.array([0.0, 0.1])}, num_parallel=num_parallel)
    for i in range(3):
        for j, rtol in enumerate((0.0, 0.1)):
            single = fit(keys[i], rtol)
            np.testing.assert_allclose(swept.fits.loss[i, j], single.loss, rtol=1e-12)
            np.testing.assert_array_equal(swept.fits.num_steps[i, j], single.num_steps)
    assert [row["key"] for row in swept.to_records()] == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_traced_settings_of_a_solver_a_prior_and_an_assignment_can_be_axes():
    data = as_data(X)
    start = gmm.start.from_labels(np.arange(60) % 3, data, 3, problem=EXACT)

    def annealed(beta, rate, strength):
        prior = gmm.NormalInverseWishart(data.x.mean(axis=0), 0.01, 4.0, strength * jnp.eye(2))
        problem = gmm.GaussianMixture(assignment=gmm.Tempered(beta), prior=prior)
        return solve.run(problem, solve.Optax(optax.adam, rate), start, data, max_steps=3)

    axes = {"beta": jnp.array([0.5, 1.0]), "rate": jnp.array([0.01, 0.1]), "strength": jnp.array([0.1, 1.0])}
    swept = sweep.grid(annealed, axes)
    assert swept.fits.loss.shape == (2, 2, 2)
    assert len(set(np.asarray(swept.fits.loss).ravel().tolist())) == 8
    np.testing.assert_allclose(swept.fits.loss[1, 0, 1], annealed(1.0, 0.01, 1.0).loss, rtol=1e-12)


@pytest.mark.slow
def test_one_collapsing_restart_leaves_the_others_bit_equal():
    centers = seeding.starts(KEY, as_data(X), 3, restarts=3)
    good = jax.vmap(lambda u: gmm.start.from_centers(u, X, problem=EXACT))(centers)
    # A component for one row alone.
    factors = good.covariance.scale_tril.at[1, 2].set(1e-3 * jnp.eye(2))
    means = good.means.at[1, 2].set(X[0])
    bad = good._replace(components=good.components._replace(means=means, covariance=gmm.Full(factors)))
    with_bad = fit_restarts(EXACT, KEY, X, 3, init=bad, max_steps=15)
    without = fit_restarts(EXACT, KEY, X, 3, init=good, max_steps=15)
    assert with_bad.status[1] == Status.NONFINITE
    others = np.array([0, 2])
    for one, other in zip(jax.tree.leaves(with_bad), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(one[others], other[others])
    assert solve.best(with_bad).loss == with_bad.loss[others].min()


@pytest.mark.slow
@pytest.mark.parametrize("num_parallel", [1, 3])
def test_mixtures_equal_single_fits(num_parallel):
    options: Any = {"weights": 1 + np.arange(60.0) % 3, "restarts": 2, "init": seeding.maximin, **FIXED}
    ks, noise = [1, 3], np.array([1e-6, 1e-1])
    swept = sweep.mixtures(
        KEY,
        X,
        ks,
        covariances=[gmm.Diagonal, gmm.Tied],
        regularizations=noise,
        num_parallel=num_parallel,
        **options,
    )
    for covariance in (gmm.Diagonal, gmm.Tied):
        family = swept[covariance.__name__]
        assert family.names == ("k", "regularization", "restart")
        for i, k in enumerate(ks):
            single = gmm.fit_restarts(
                KEY, X, 3, covariance=covariance, regularization=noise[1], num_active=k, **options
            )
            point = family.at(k=i, regularization=1).fits
            np.testing.assert_allclose(point.trace, single.trace, rtol=1e-9)
            np.testing.assert_allclose(point.params.means, single.params.means, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_mixtures_start_from_centers_and_run_under_jit():
    def losses(key, x):
        options: Any = {"covariances": [gmm.Diagonal], "init": X[:3], "max_steps": 2}
        return sweep.mixtures(key, x, [2, 3], **options)["Diagonal"].fits.loss

    found = losses(KEY, X)
    assert found.shape == (2, 1)
    np.testing.assert_allclose(jax.jit(losses)(KEY, jnp.asarray(X)), found, rtol=1e-10)
    start = gmm.start.from_centers(X[:3], X)
    with pytest.raises(ValueError, match="must be a seeding or centers"):
        sweep.mixtures(KEY, X, [3], init=start)


@pytest.mark.slow
def test_mixtures_over_families_find_those_of_old_faithful():
    # Fraley and Raftery (2002) and mclust: by BIC, three components with one full covariance.
    x = datasets.old_faithful().astype(float)
    swept = sweep.mixtures(KEY, x, [2, 3, 4], covariances=[gmm.Tied, gmm.Spherical], restarts=8, max_steps=300)
    bic = {
        name: np.asarray(family.best("restart").map(lambda fit: metrics.bic(fit.params, x)))
        for name, family in swept.items()
    }
    assert list(bic) == ["Tied", "Spherical"]
    assert bic["Tied"].argmin() == 1
    # mclust prints -2314.316 for EEE with three components.
    np.testing.assert_allclose(bic["Tied"][1], 2314.316, atol=0.05)
    assert (bic["Tied"] < bic["Spherical"]).all()


@pytest.mark.parametrize(
    ("axes", "inner", "options", "message"),
    [
        ({}, (), {}, "at least one axis"),
        ({"k": 3}, (), {}, "Axis `k` must be an array"),
        ({"k": jnp.zeros(0)}, (), {}, "Axis `k` must be an array"),
        ({"k": jnp.arange(2)}, ("k",), {}, "distinct names"),
        ({"k": jnp.arange(2)}, (), {"num_parallel": 0}, "`num_parallel`"),
    ],
)
def test_bad_grids_are_rejected(axes, inner, options, message):
    with pytest.raises(ValueError, match=message):
        sweep.grid(lambda k: k, axes, *inner, **options)


@pytest.mark.parametrize(
    ("function", "axes", "message"),
    [
        (lambda k: k, {"seed": jnp.arange(2)}, r"`axes` has \['seed'\], .* Its arguments are \['k'\]"),
        (lambda k, key: k, {"k": jnp.arange(2)}, r"The function needs \['key'\], .* its names are \['k'\]"),
        (lambda k, /: k, {"k": jnp.arange(2)}, r"`axes` has \['k'\]"),
        (3, {"k": jnp.arange(2)}, "`function` must be a function of one value of each axis, got 3"),
        (lambda k: k, [jnp.arange(2)], "`axes` must be a dictionary .* got a list"),
    ],
)
def test_axes_that_are_not_the_arguments_of_the_function_are_named(function, axes, message):
    with pytest.raises(ValueError, match=message):
        sweep.grid(function, axes)


def test_functions_with_defaults_and_with_any_arguments_are_swept():
    axes = {"k": jnp.arange(2)}
    assert sweep.grid(lambda k, key=1: k + key, axes).fits.tolist() == [1, 2]
    assert sweep.grid(lambda **given: given["k"], axes).fits.tolist() == [0, 1]


def test_unknown_options_of_mixtures_are_named():
    with pytest.raises(ValueError, match=r"no arguments \['max_step'\]. Its options are \['prior', .*'max_steps'"):
        sweep.mixtures(KEY, X, [1], max_step=3)


def test_a_table_under_jit_and_a_map_without_a_function_are_rejected():
    swept = sweep.grid(lambda k: 2 * k, {"k": jnp.arange(3)})
    with pytest.raises(ValueError, match="`to_records` is for the host"):
        jax.jit(swept.to_records)(total=swept.fits)
    untyped: Any = swept
    with pytest.raises(ValueError, match="`function` must be a function of one fit"):
        untyped.map(3)


def test_values_as_indices_and_options_of_the_sweep_are_rejected(large):
    with pytest.raises(ValueError, match=r"Axis `k` has .* values: 99 must be an index"):
        large.at(k=99)
    with pytest.raises(ValueError, match="`mixtures` sets"):
        sweep.mixtures(KEY, X, [1], num_active=1)


def test_axes_of_arrays_show_as_indices():
    swept = sweep.grid(lambda weights: jnp.sum(weights), {"weights": jnp.ones((3, 5))})
    assert swept.to_records(total=swept.fits) == [{"weights": i, "total": 5.0} for i in range(3)]


def test_the_default_prior_is_swept_with_k():
    ks = jnp.array([1, 3])
    swept = sweep.grid(lambda k: gmm.fraley_raftery(X, k).scale, {"k": ks})
    for i, k in enumerate(ks.tolist()):
        np.testing.assert_allclose(swept.fits[i], gmm.fraley_raftery(X, k).scale, rtol=1e-12)


def test_unknown_axes_and_bad_counts_are_rejected():
    swept = sweep.grid(lambda k: 2 * k, {"k": jnp.arange(3)})
    np.testing.assert_array_equal(swept.fits, [0, 2, 4])
    with pytest.raises(ValueError, match="`seed` is not an axis"):
        swept.best("seed")
    for ks in ([], [0], [61]):
        with pytest.raises(ValueError, match="ks"):
            sweep.mixtures(KEY, X, ks)


def test_a_sweep_without_memory_names_the_arguments_to_change():
    def fit(key):
        row = jax.random.uniform(key, (1, 2))
        whole = jnp.zeros((2**22, 2**22))  # 64 TiB or more
        whole = jax.lax.fori_loop(0, 3, lambda i, table: jax.lax.dynamic_update_slice(table, row, (i, i)), whole)
        return whole[1, 1]

    with pytest.raises(MemoryError, match=r"1 of 2 points.*`num_parallel`.*Blocks"):
        sweep.grid(fit, {"key": jax.random.split(jax.random.key(0), 2)}, num_parallel=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, r"`mixtures` sets \['k'\]"),
        ({"regularizations": []}, "`regularizations` must have shape"),
        ({"regularizations": 0.1}, "`regularizations` must have shape"),
        ({"regularizations": [[0.1, 0.2, 0.3]]}, "`regularizations` must have shape"),
        ({"regularizations": [0.1, -1.0]}, "`regularizations` must be finite and at least 0"),
        ({"covariances": gmm.Full}, "`covariances` must be a list"),
        ({"covariances": [gmm.Full, gmm.Full]}, "`covariances` must be a list"),
        ({"covariances": []}, "`covariances` must be a list"),
    ],
)
def test_arguments_of_mixtures_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sweep.mixtures(KEY, np.asarray(X), [2], **options)
