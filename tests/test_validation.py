"""Arguments that are rejected, and the messages; and the results under jit, where values are not known."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from validation_cases import (
    ACCEPTED,
    FAMILIES,
    MODELS,
    ONES,
    OPEN,
    PAGE,
    REJECTED,
    Accepted,
    K,
    arguments,
    fits,
    outcome,
    tables,
)

from jaxmix import Fit, Problem, Status, as_data, fit, gmm, interop, kmeans, metrics, mixture, solve, sweep
from jaxmix.pytree import choice
from tests.mixtures import exact, make, replace
from tests.pages import rewritten

KEY = jax.random.key(0)
X = np.arange(12.0).reshape(6, 2)
NAN = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, X)

LABELS = np.array([0, 1, 0, 1, 0, 1])

# Error rows compile nothing; what compiles is run for one family, and for the others with the slow tests.
SLOW = [pytest.param(name, marks=pytest.mark.slow if name not in ("K-means", "Full") else []) for name in MODELS]


def fits_model(only, model):
    return not only or (only == "K-means") == (model == "K-means")


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: f"{case.argument}: {case.given}")
def test_every_fit_rejects_invalid_arguments_with_the_message_of_the_page(case):
    for model in filter(partial(fits_model, case.only), MODELS):
        with pytest.raises(ValueError, match="^" + re.escape(case.message)) as error:
            fits(model, arguments(case, model))
        assert str(error.value) == case.message or case.message.endswith(OPEN)


def words(case, model):
    if isinstance(case, Accepted):
        return case.kmeans if model == "K-means" else dict(case.families).get(model, case.mixtures)
    return case.traced.split(", ")[model != "K-means" and ", " in case.traced]


def outcomes(found, given):
    x, weights = (np.asarray(given[name], float) for name in ("x", "weights"))
    return {outcome(jax.tree.map(lambda leaf, i=i: leaf[i], found), x, weights) for i in range(2)}


@pytest.mark.parametrize("model", SLOW)
@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.given)
def test_every_fit_of_accepted_arguments_is_right_or_has_a_status(case, model):
    if not words(case, model):
        pytest.skip("an argument of mixtures alone")
    given = arguments(case, model)
    found = fits(model, given)
    assert outcomes(found, given) == {words(case, model)}
    if case.like is not None:
        plain = fits(model, {**given, "x": case.like, "weights": ONES})
        assert plain.loss.dtype == found.loss.dtype
        jax.tree.map(np.testing.assert_array_equal, found, plain)


TRACED = ("x", "weights", "rtol", "atol", "num_active")


@pytest.mark.parametrize("model", SLOW)
def test_traced_invalid_values_end_in_a_status(model):
    """All rows of the page in one batch: invalid ones do not affect the others."""
    usual = {"rtol": 0.0, "atol": 0.0 if model == "K-means" else 1e-6, "num_active": K}
    cases = [case for case in (*REJECTED, *ACCEPTED) if case.traced and "init" not in arguments(case, model)]
    given = [{**usual, **arguments(case, model)} for case in cases]
    stacked = {name: np.stack([np.asarray(one[name], float) for one in given]) for name in TRACED}
    stacked["num_active"] = stacked["num_active"].astype(int)
    fixed = arguments(ACCEPTED[0], model)
    found = jax.jit(jax.vmap(lambda changed: fits(model, {**fixed, **changed})))(stacked)
    for i, case in enumerate(cases):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        assert outcomes(one, given[i]) <= set(words(case, model).split(" or ")), case


@pytest.mark.parametrize("model", SLOW)
def test_traced_invalid_starts_end_in_a_status(model):
    cases = [case for case in ACCEPTED if case.traced and words(case, model) and "init" in arguments(case, model)]
    given = [arguments(case, model) for case in cases]
    starts = jax.tree.map(lambda *leaves: np.stack(leaves), *[one["init"] for one in given])
    found = jax.jit(jax.vmap(lambda init: fits(model, {**given[0], "init": init})))(starts)
    for i, case in enumerate(cases):
        assert outcomes(jax.tree.map(lambda leaf, i=i: leaf[i], found), given[i]) == {words(case, model)}, case


def test_the_page_shows_exactly_these_tables():
    assert PAGE.read_text() == rewritten(PAGE, *tables()), "run `python -m tests.validation_cases`"


# Every public function of rows and weights, with its other arguments.
UNTYPED: Any = gmm  # arguments of any type
MIXTURE = UNTYPED.Mixture(np.log([0.5, 0.5]), UNTYPED.Normal(X[:2], UNTYPED.Diagonal(np.ones((2, 2)))))
RESP = np.full((6, 2), 0.5)
FIT: Any = Fit(X[:2], *[jnp.zeros(())] * 5)
ROWS = {
    "as_data": lambda x, weights: as_data(x, weights),
    "kmeans.fit": lambda x, weights: kmeans.fit(KEY, x, 2, weights=weights),
    "kmeans.predict": lambda x, weights: kmeans.predict(X[:2], as_data(x, weights).x),
    "kmeans.objective": lambda x, weights: kmeans.objective(X[:2], x, weights=weights),
    "kmeans.update": lambda x, weights: kmeans.update(X[:2], x, LABELS, weights=weights),
    "kmeans.lower_bound": lambda x, weights: kmeans.lower_bound(x, 2, weights=weights),
    "kmeans.exact.brute_force": lambda x, weights: kmeans.exact.brute_force(x, 2, weights=weights),
    "gmm.fit": lambda x, weights: gmm.fit(KEY, x, 2, weights=weights),
    "gmm.log_likelihood": lambda x, weights: gmm.log_likelihood(MIXTURE, x, weights=weights),
    "gmm.complete_log_likelihood": lambda x, weights: gmm.complete_log_likelihood(MIXTURE, x, LABELS, weights=weights),
    "gmm.expected_complete_log_likelihood": lambda x, weights: gmm.expected_complete_log_likelihood(
        MIXTURE, x, RESP, weights=weights
    ),
    "gmm.elbo": lambda x, weights: gmm.elbo(MIXTURE, x, RESP, weights=weights),
    "gmm.fraley_raftery": lambda x, weights: gmm.fraley_raftery(as_data(x, weights), 2),
    "gmm.start.from_labels": lambda x, weights: gmm.start.from_labels(LABELS, as_data(x, weights), 2),
    "metrics.bic": lambda x, weights: metrics.bic(MIXTURE, x, weights=weights),
    "metrics.aic": lambda x, weights: metrics.aic(MIXTURE, x, weights=weights),
    "metrics.icl": lambda x, weights: metrics.icl(MIXTURE, x, weights=weights),
    "metrics.silhouette": lambda x, weights: metrics.silhouette(x, LABELS, 2, weights=weights),
    "sweep.mixtures": lambda x, weights: sweep.mixtures(KEY, x, [1, 2], weights=weights),
}
ROWS_ALONE = {
    "kmeans.predict": lambda x: kmeans.predict(X[:2], x),
    "gmm.log_joint": lambda x: gmm.log_joint(MIXTURE, x),
    "gmm.log_prob": lambda x: gmm.log_prob(MIXTURE, x),
    "gmm.responsibilities": lambda x: gmm.responsibilities(MIXTURE, x),
    "gmm.predict": lambda x: gmm.predict(MIXTURE, x),
    "gmm.e_step": lambda x: gmm.e_step(MIXTURE, x),
    "gmm.start.from_centers": lambda x: gmm.start.from_centers(X[:2], x),
    "gmm.start.from_responsibilities": lambda x: gmm.start.from_responsibilities(RESP, x),
    "solve.run": lambda x: solve.run(kmeans.KMeans(), solve.EM(), X[:2], x),
    "solve.run_many": lambda x: solve.run_many(kmeans.KMeans(), solve.EM(), X[None, :2], x),
}
BAD_ROWS = {
    "NaN": NAN,
    "one axis": X[:, 0],
    "complex": X + 1j,
    "objects": X.astype(object),
    "no rows": X[:0],
    "masked": np.ma.masked_greater(X, 8),
}


@pytest.mark.parametrize("function", [*ROWS, *ROWS_ALONE])
def test_every_public_function_rejects_bad_rows_and_weights(function):
    for x in BAD_ROWS.values():
        with pytest.raises(ValueError, match=r"^`x` "):
            ROWS_ALONE[function](x) if function in ROWS_ALONE else ROWS[function](x, None)
    for weights in (-np.ones(6), np.ones(5), np.full(6, np.nan), np.zeros(6), ["1"] * 6):
        if function in ROWS:
            with pytest.raises(ValueError, match=r"^`weights` "):
                ROWS[function](X, weights)


# Every public function of a mixture.
OF_MIXTURE = {
    "gmm.log_joint": lambda params: gmm.log_joint(params, X),
    "gmm.predict": lambda params: gmm.predict(params, X),
    "gmm.sample": lambda params: gmm.sample(KEY, params, 3),
    "gmm.marginal": lambda params: gmm.marginal(params, [0]),
    "gmm.conditional": lambda params: gmm.conditional(params, [0], [0.0]),
    "gmm.elbo": lambda params: gmm.elbo(params, X, RESP),
    "gmm.complete_log_likelihood": lambda params: gmm.complete_log_likelihood(params, X, LABELS),
    "metrics.bic": lambda params: metrics.bic(params, X),
}
BAD_MIXTURES = [
    (replace(MIXTURE, means=X[:2] * np.nan), "must be a mixture of finite numbers"),
    (MIXTURE._replace(log_weights=np.full(2, np.nan)), "must be a mixture of finite numbers"),
    (replace(MIXTURE, covariance=UNTYPED.Diagonal(-np.ones((2, 2)))), "not above 0"),
    (replace(MIXTURE, covariance=UNTYPED.Full(np.zeros((2, 2, 2)))), "not above 0"),
    (
        replace(MIXTURE, covariance=UNTYPED.Diagonal(np.ones((1, 2)))),
        r"`params.covariance.scale` must have shape \(2, 2\)",
    ),
    (replace(MIXTURE, covariance=np.eye(2)), "`covariance` must be a covariance family"),
    (MIXTURE._replace(log_weights=np.zeros(1)), r"`params.log_weights` must have shape \(2,\)"),
    (replace(MIXTURE, means=X[0]), r"`params.means` must have shape \(K, "),
    (replace(MIXTURE, means=X[:2].astype(str)), "`params.means` must hold real numbers"),
    (X[:2], "`params` must be a `Mixture`"),
]


@pytest.mark.parametrize("function", OF_MIXTURE)
def test_every_public_function_rejects_an_invalid_mixture(function):
    for params, message in BAD_MIXTURES:
        with pytest.raises(ValueError, match=message):
            OF_MIXTURE[function](params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans.predict(np.stack([X[:2]] * 3), X), r"`centers` must have shape \(K, D\).*`solve.best`"),
        (lambda: kmeans.predict(MIXTURE, X), "`centers` must be an array, got a Mixture. Its means are centers.means"),
        (lambda: kmeans.predict(X[:2], NAN), "`x` must be finite"),
        (lambda: kmeans.objective(X[:2], X, np.zeros(6)), "`labels` must be integers"),
        (lambda: kmeans.objective(X[:2], X, np.zeros(5, int)), r"`labels` must have shape \(6,\)"),
        (lambda: kmeans.objective(X[:2], X, ["a"] * 6), "`labels` must be integers"),
        (lambda: kmeans.predict(NAN[2:4], X), "`centers` must not hold NaN"),
        (lambda: kmeans.objective(X[:2], X, np.full(6, 2)), r"`labels` must lie in \[0, 2\)"),
        (lambda: kmeans.update(X[:2], X, np.full(6, -1)), r"`labels` must lie in \[0, 2\)"),
        (lambda: kmeans.update(X[:2], X, np.zeros(6, int), weights=-np.ones(6)), "`weights`"),
        (lambda: kmeans.reconstruct(X[0], [0]), r"`centers` must have shape \(K, D\)"),
        (lambda: kmeans.reconstruct(X, [0.5]), "`labels` must be integers"),
        (lambda: kmeans.reconstruct(X, [0, len(X)]), rf"`labels` must lie in \[0, {len(X)}\)"),
        (lambda: kmeans.reconstruct(X, [[-1]]), "got values from -1 to -1"),
        (lambda: kmeans.lower_bound(X, 7), "`k` must be at most"),
        (lambda: as_data(as_data(X), np.ones(6)), "has weights already"),
        (lambda: solve.run(kmeans.KMeans(), solve.EM(), MIXTURE, X), "`params` must be centers, .* got a Mixture"),
        (lambda: solve.run(gmm.GaussianMixture(), solve.EM(), X[:2], X), "`params` must be a `Mixture`, got an array"),
        (lambda: solve.run(gmm.GaussianMixture(gmm.Tied), solve.EM(), MIXTURE, X), "`params.components` must have"),
        (lambda: solve.best(FIT.loss), "`fits` must be a `Fit` with a leading axis, .* got an array"),
        (lambda: solve.best(FIT), "`fits` must be a `Fit` with a leading axis, .* got one Fit"),
    ],
)
def test_the_other_functions_reject_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_origin_of_a_million_rows_far_from_zero_is_their_mean():
    x = (np.random.default_rng(0).normal(size=(1_000_000, 1)) + 1e6).astype(np.float32)
    assert abs(float(as_data(x).origin[0]) - x.astype(np.float64).mean()) <= 0.0625  # one unit in the last place


def test_the_origin_is_the_weighted_mean_where_subtracting_it_is_exact():
    x = (X + 1e6).astype(np.float32)
    x[:, 1] = X[:, 1]
    weights = np.array([0, 1, 2, 0, 1, 5])
    data = as_data(x, weights)
    np.testing.assert_allclose(data.origin[0], np.average(x[:, 0].astype(float), weights=weights), rtol=1e-7)
    assert data.origin[1] == 0
    assert data.origin.dtype == jnp.float32
    moved = (data.x - data.origin[None]).astype(float)
    np.testing.assert_array_equal(moved[weights > 0], (x.astype(float) - np.asarray(data.origin))[weights > 0])


def test_rows_of_weight_zero_may_hold_arbitrary_values():
    weights = np.ones(6)
    weights[2] = 0
    kept = np.flatnonzero(weights)
    fit = kmeans.fit(KEY, NAN, 2, weights=weights, init=X[[0, 5]])
    expected = kmeans.fit(KEY, X[kept], 2, init=X[[0, 5]])
    np.testing.assert_allclose(fit.params, expected.params, rtol=1e-14)
    np.testing.assert_allclose(fit.loss, expected.loss, rtol=1e-14)


@jax.jit
def jitted_fit(x, weights):
    return kmeans.fit(KEY, x, 2, weights=weights, restarts=2, max_steps=20)


def test_under_jit_valid_input_is_fitted_and_concrete_input_is_validated():
    assert jitted_fit(X, np.ones(6)).status == Status.CONVERGED
    with pytest.raises(ValueError, match="`x` must be finite"):
        jax.jit(lambda key: kmeans.fit(key, NAN, 2))(KEY)


def test_import_changes_no_configuration_and_stays_light():
    import subprocess
    import sys

    code = (
        "import sys, jax; before = dict(jax.config.values); import jaxmix; "
        "assert jax.config.values == before; "
        "heavy = {'sklearn', 'scipy.stats', 'matplotlib', 'rich', 'pandas', 'tyro'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_programs_of_choices_without_fields_are_told_apart():
    x = np.random.default_rng(0).normal(size=(20, 2))
    start = gmm.start.from_labels(np.arange(20) % 2, x, 2)
    losses = [
        float(solve.run(exact(assignment=chosen), solve.EM(), start, x, max_steps=1).trace[0])
        for chosen in (gmm.Soft(), gmm.Hard())
    ]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("family", FAMILIES.values())
def test_covariances_of_another_number_of_components_are_rejected(family):
    init = make(np.log([0.5, 0.5]), X[:2], family.identity(3, 2, float))
    if "Tied" in family.__name__:
        init = make(np.log([0.5, 0.5]), X[:2], family.identity(2, 3, float))
    if family is gmm.TiedSpherical:
        init = make(np.log([0.5, 0.5]), X[:2], gmm.TiedSpherical(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"^`init.covariance.scale(_tril)?` must have shape .* for `init.means`"):
        gmm.fit(KEY, X, 2, covariance=family, init=init)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_traced_row_that_is_not_finite_has_no_label_and_no_responsibilities(bad):
    x = np.array([[0.0, 1.0], [bad, 0.0], [3.0, 2.0]])
    centers = jnp.array([[0.0, 0.0], [3.0, 3.0]])
    mixture = make(jnp.log(jnp.full(2, 0.5)), centers, gmm.Full.identity(2, 2, float))
    assert jax.jit(kmeans.predict)(centers, x).tolist() == [0, -1, 1]
    assert jax.jit(gmm.predict)(mixture, x).tolist() == [0, -1, 1]
    decoded = jax.jit(lambda x: kmeans.reconstruct(centers, kmeans.predict(centers, x)))(x)
    np.testing.assert_array_equal(decoded, [[0, 0], [np.nan, np.nan], [3, 3]])
    assert np.isnan(jax.jit(gmm.responsibilities)(mixture, x)).any(axis=1).tolist() == [False, True, False]


# A fit in place of its parameters, rows of another width, and one row without its axis.
PREDICTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "kmeans.predict": kmeans.predict,
    "kmeans.objective": kmeans.objective,
    "kmeans.e_step": kmeans.e_step,
    "kmeans.update": lambda params, x: kmeans.update(params, x, LABELS),
    "gmm.start.from_centers": gmm.start.from_centers,
    "solve.objective": lambda params, x: solve.objective(kmeans.KMeans(), params, x),
    "solve.run": lambda params, x: solve.run(kmeans.KMeans(), solve.EM(), params, x),
    "solve.run_many": lambda params, x: solve.run_many(kmeans.KMeans(), solve.EM(), params, x),
}
OF_ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "gmm.log_joint": gmm.log_joint,
    "gmm.log_prob": gmm.log_prob,
    "gmm.log_likelihood": gmm.log_likelihood,
    "gmm.responsibilities": gmm.responsibilities,
    "gmm.predict": gmm.predict,
    "gmm.e_step": gmm.e_step,
    "gmm.elbo": lambda params, x: gmm.elbo(params, x, RESP),
    "gmm.expected_complete_log_likelihood": lambda p, x: gmm.expected_complete_log_likelihood(p, x, RESP),
    "gmm.complete_log_likelihood": lambda params, x: gmm.complete_log_likelihood(params, x, LABELS),
    "metrics.bic": metrics.bic,
    "metrics.aic": metrics.aic,
    "metrics.icl": metrics.icl,
    "solve.objective of a mixture": lambda params, x: solve.objective(gmm.GaussianMixture(gmm.Diagonal), params, x),
}
OF_PARAMS: dict[str, Callable[[Any], Any]] = {
    **OF_MIXTURE,
    "gmm.m_step": lambda params: gmm.m_step(gmm.e_step(MIXTURE, X), params),
    "gmm.recenter": lambda params: gmm.recenter(gmm.e_step(MIXTURE, X), MIXTURE, params),
    "kmeans.reconstruct": lambda params: kmeans.reconstruct(params, LABELS),
    "kmeans.m_step": lambda params: kmeans.m_step(kmeans.e_step(X[:2], X), params),
    "kmeans.recenter": lambda params: kmeans.recenter(kmeans.e_step(X[:2], X), params, params),
    "metrics.match": lambda params: metrics.match(X[:2], params),
    "interop.to_numpyro": interop.to_numpyro,
    "kmeans.fit": lambda params: kmeans.fit(KEY, X, 2, init=params),
    "gmm.fit": lambda params: gmm.fit(KEY, X, 2, init=params),
    **{name: lambda params, of=function: of(params, X) for name, function in {**PREDICTIONS, **OF_ROWS}.items()},
}


@pytest.mark.parametrize("function", OF_PARAMS)
def test_a_fit_in_place_of_its_parameters_is_named(function):
    with pytest.raises(ValueError, match=r"is a `Fit`, not its parameters. Give `fit.params`."):
        OF_PARAMS[function](FIT)


@pytest.mark.parametrize("function", [*PREDICTIONS, *OF_ROWS])
def test_rows_of_another_width_and_a_row_alone_are_blamed_on_x(function):
    call, params = (PREDICTIONS[function], X[:2]) if function in PREDICTIONS else (OF_ROWS[function], MIXTURE)
    if function == "solve.run_many":
        params = X[None, :2]
    with pytest.raises(ValueError, match=r"^`x` has 1 columns, but the model has 2 features"):
        call(params, X[:, :1])
    with pytest.raises(ValueError, match=r"^`x` has 1 columns, but the model has 2 features"):
        call(params, as_data(X[:, :1]))
    with pytest.raises(ValueError, match=r"^`x` must have shape .*x\[None\] for one row"):
        call(params, X[0])


def test_a_row_alone_is_told_from_a_feature_alone():
    with pytest.raises(ValueError, match=r"x\[None\] for one row, which must have the 2 features") as error:
        kmeans.predict(X[:2], X[0])
    assert "x[:, None]" not in str(error.value)
    with pytest.raises(ValueError, match=r"x\[:, None\] for one feature"):
        kmeans.predict(X[:2, :1], X[:, 0])


@pytest.mark.parametrize("function", ["kmeans.predict", "gmm.log_joint", "gmm.predict", "gmm.responsibilities"])
def test_functions_without_weights_name_rows_with_nan_and_do_not_advise_weights(function):
    with pytest.raises(ValueError, match=r"these rows hold NaN or infinity: 2\.") as error:
        ROWS_ALONE[function](NAN)
    assert "weight" not in str(error.value)
    with pytest.raises(ValueError, match=r"infinity: 0, 1, 2, 3, 4, and 1 more. .*weight 0"):
        as_data(X * np.nan)


@pytest.mark.parametrize("function", ["kmeans.fit", "gmm.fit"])
def test_a_traced_k_is_told_of_num_active(function):
    fits: Any = kmeans.fit if function == "kmeans.fit" else gmm.fit
    with pytest.raises(ValueError, match=r"`k` must be a Python integer .* got a traced value. .*`num_active`"):
        jax.vmap(lambda k: fits(KEY, X, k))(jnp.arange(1, 3))
    with pytest.raises(ValueError, match=r"Write int\(k\)"):
        fits(KEY, X, jnp.array(2))
    with pytest.raises(ValueError, match="static_argnames='restarts'"):
        jax.jit(lambda restarts: fits(KEY, X, 2, restarts=restarts))(2)


def test_integers_are_rejected_only_where_float32_would_round_them():
    with jax.enable_x64(False):
        for exact in (2**24, -(2**24), 2**40, 3 * 2**50, -(2**63)):
            assert as_data(np.array([[exact], [1]])).x[0, 0] == float(exact)
        for rounded in (2**24 + 1, -(2**24) - 1, 2**40 + 5):
            with pytest.raises(ValueError, match=r"`x` .*float32 would round, such as .* in row 1, .*jax.enable_x64"):
                as_data([[1], [rounded]])
        with pytest.raises(ValueError, match=r"`x` .*float32 would round"):
            kmeans.fit(KEY, jnp.array([[2**24 + 1], [1]]), 1)
        with pytest.raises(ValueError, match=r"`centers` .*float32 would round"):
            kmeans.predict([[2**24 + 1]], [[1.0]])
        # Rows of weight zero may hold anything, and floats are rounded as everywhere in JAX.
        assert as_data([[2**24 + 1], [3]], [0, 1]).x[0, 0] == 3
        assert as_data(np.array([[2.0**24 + 1]])).x.dtype == jnp.float32


def test_what_a_user_calls_or_derives_from_is_checked_at_every_entry():
    class Bare(mixture.Component):
        pass

    class BareAssignment(mixture.Assignment):
        pass

    @choice
    class Partial(Problem):
        def e_step(self, prepared, rows):
            return rows

    untyped: Any = Partial()
    for call in (
        lambda: fit(untyped, KEY, X, 2),
        lambda: solve.run(untyped, solve.EM(), X[:2], X),
        lambda: solve.run_many(untyped, solve.EM(), X[None, :2], X),
        lambda: solve.make_objective(untyped, X[:2], X),
    ):
        with pytest.raises(ValueError, match=r"`problem` is of the class Partial, which must define `m_step"):
            call()
    for call in (
        lambda: gmm.log_prob(MIXTURE, X, component=Bare()),
        lambda: gmm.sample(KEY, MIXTURE, 2, component=Bare()),
        lambda: fit(mixture.MixtureModel(Bare()), KEY, X, 2),
        lambda: gmm.e_step(MIXTURE, X, assignment=BareAssignment()),
        lambda: gmm.start.from_labels(LABELS, X, 2, problem=mixture.MixtureModel(Bare())),
    ):
        with pytest.raises(ValueError, match=r"is of the class Bare\w*, which lacks the decorator .*@choice"):
            call()
    with pytest.raises(ValueError, match=r"`refine` must be a choice, .* got 10"):
        fit(kmeans.KMeans(), KEY, X, 2, refine=cast(Any, 10))
    with pytest.raises(ValueError, match=r"Call it: GaussianMixture\(...\)"):
        fit(cast(Any, gmm.GaussianMixture), KEY, X, 2)
    with pytest.raises(ValueError, match=r"Write Tempered\(inverse_temperature\)"):
        gmm.fit(KEY, X, 2, assignment=cast(Any, gmm.Tempered))
