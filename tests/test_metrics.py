"""Metrics: equal to scikit-learn and to brute force, and deaf to names, to the order of rows and to repetition."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from scipy import stats
from scipy.spatial import distance
from sklearn import metrics as sklearn_metrics
from sklearn.mixture import GaussianMixture

from jaxmix import Blocks, as_data, gmm, metrics
from jaxmix.mixture import Mixture, Normal, Rates

RANDOM = np.random.default_rng(0)
N, K = 60, 4
X = blobs(N, 2, K, spread=2.0)
A = np.arange(N) % K
# Half agree with A under other names, half are drawn.
B = np.where(RANDOM.random(N) < 0.5, (A + 1) % K, RANDOM.integers(0, K, N))
WEIGHTS = RANDOM.integers(0, 4, N)
REPEATED = np.repeat(np.arange(N), WEIGHTS)
AGREEMENTS = {
    "adjusted_rand_index": (metrics.adjusted_rand_index, sklearn_metrics.adjusted_rand_score),
    "normalized_mutual_information": (
        metrics.normalized_mutual_information,
        sklearn_metrics.normalized_mutual_info_score,
    ),
}
agreements = pytest.mark.parametrize(("ours", "theirs"), AGREEMENTS.values(), ids=AGREEMENTS)


# Criteria


def mixture(covariance: type[gmm.Covariance], k: int = 2) -> Mixture:
    exact = gmm.GaussianMixture(covariance, regularization=0.0)
    return gmm.start.from_labels(np.arange(N) // 20 % 2, as_data(X), k, problem=exact)


def their_mixture(params: Mixture, kind: str) -> GaussianMixture:
    theirs = GaussianMixture(params.means.shape[0], covariance_type=kind)
    theirs.weights_, theirs.means_ = np.asarray(params.weights), np.asarray(params.means)
    precisions = np.linalg.inv(np.asarray(params.covariances))
    theirs.precisions_cholesky_ = {
        "full": lambda: np.linalg.cholesky(precisions),
        "tied": lambda: np.linalg.cholesky(precisions[0]),
        "diag": lambda: np.sqrt(np.diagonal(precisions, axis1=1, axis2=2)),
        "spherical": lambda: np.sqrt(precisions[:, 0, 0]),
    }[kind]()
    return theirs


@pytest.mark.parametrize(
    ("covariance", "kind"),
    [(gmm.Full, "full"), (gmm.Tied, "tied"), (gmm.Diagonal, "diag"), (gmm.Spherical, "spherical")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_aic_and_bic_are_those_of_scikit_learn(covariance, kind):
    params = mixture(covariance)
    theirs = their_mixture(params, kind)
    np.testing.assert_allclose(metrics.aic(params, X), theirs.aic(X), rtol=1e-12)
    np.testing.assert_allclose(metrics.bic(params, X), theirs.bic(X), rtol=1e-12)


def test_icl_is_the_likelihood_of_rows_and_their_most_probable_components():
    params = mixture(gmm.Full)
    labels = np.asarray(gmm.predict(params, X))
    resp = np.asarray(gmm.responsibilities(params, X))
    penalty = int(params.num_free_parameters) * math.log(N)
    complete = gmm.complete_log_likelihood(params, X, labels)
    value = metrics.icl(params, X)
    np.testing.assert_allclose(value, -2 * complete + penalty, rtol=1e-12)
    # mclust: its BIC, of the other sign, plus twice the log of the largest responsibility of each row.
    np.testing.assert_allclose(-value, -metrics.bic(params, X) + 2 * np.log(resp.max(axis=1)).sum(), rtol=1e-12)
    # Overlap costs something here, and the entropy charges more for it.
    assert metrics.bic(params, X) + 1 < value < metrics.bic(params, X) + 2 * gmm.entropy(resp)


@pytest.mark.parametrize("criterion", [metrics.aic, metrics.bic, metrics.icl])
def test_weights_of_criteria_are_repeated_rows(criterion):
    params = mixture(gmm.Diagonal)
    np.testing.assert_allclose(criterion(params, X, weights=WEIGHTS), criterion(params, X[REPEATED]), rtol=1e-12)


@pytest.mark.parametrize("covariance", [gmm.Full, gmm.TiedSpherical])
def test_components_that_are_off_cost_nothing(covariance):
    # Labels name two components of three.
    two, three = mixture(covariance), mixture(covariance, 3)
    assert np.isneginf(np.asarray(three.log_weights)).tolist() == [False, False, True]
    scores = jax.jit(lambda params: jnp.stack([c(params, X) for c in (metrics.aic, metrics.bic, metrics.icl)]))
    np.testing.assert_allclose(scores(three), scores(two), rtol=1e-12)


def test_criteria_map_over_a_sweep():
    params = mixture(gmm.Full, 3)
    moved = params._replace(components=params.components._replace(means=params.means + 0.1))
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, moved)
    swept = jax.vmap(lambda p: metrics.bic(p, X))(stacked)
    np.testing.assert_allclose(swept[0], metrics.bic(params, X), rtol=1e-12)
    assert swept[1] > swept[0]


def test_criteria_count_the_rates_of_a_mixture_of_poisson_components():
    x = RANDOM.poisson(3.0, size=(N, 2)).astype(float)
    rates = jnp.array([[2.0, 3.0], [4.0, 1.0], [1.0, 1.0]])
    params = Mixture(jnp.log(jnp.array([0.25, 0.75, 0.0])), Rates(rates))
    joint = np.log([0.25, 0.75]) + stats.poisson.logpmf(x[:, None], np.asarray(rates)[None, :2]).sum(axis=2)
    expected = -2 * np.logaddexp.reduce(joint, axis=1).sum() + (1 + 2 * 2) * math.log(N)
    np.testing.assert_allclose(metrics.bic(params, x), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="components of `a` have no means, Rates"):
        metrics.match(params, params)


# Agreement of labels


@agreements
def test_agreement_is_that_of_scikit_learn(ours, theirs):
    np.testing.assert_allclose(ours(A, B), theirs(A, B), rtol=1e-12)
    for num_a, num_b in [(2, 6), (1, 3), (5, 1), (7, 7)]:
        a, b = RANDOM.integers(0, num_a, N), RANDOM.integers(0, num_b, N)
        np.testing.assert_allclose(ours(a, b), theirs(a, b), rtol=1e-10, atol=1e-15)


@agreements
def test_agreement_at_the_edges_is_that_of_scikit_learn(ours, theirs):
    one, each, halves = np.zeros(6, int), np.arange(6), np.arange(6) // 3
    for a, b in itertools.product([one, each, halves], repeat=2):
        np.testing.assert_allclose(ours(a, b), theirs(a, b), rtol=1e-14, atol=1e-15)
    assert ours(one, one) == 1
    assert ours(each, each) == 1
    assert ours(one[:1], one[:1]) == 1


@agreements
def test_agreement_is_deaf_to_names_order_and_gaps(ours, theirs):
    value = ours(A, B, num_labels=K)
    order = RANDOM.permutation(N)
    np.testing.assert_allclose(ours(A[order], B[order], num_labels=K), value, rtol=1e-13)
    np.testing.assert_allclose(ours(np.array([2, 0, 3, 1])[A], B, num_labels=K), value, rtol=1e-13)
    np.testing.assert_allclose(ours(B, A, num_labels=K), value, rtol=1e-13)
    np.testing.assert_allclose(ours(A, B, num_labels=9), value, rtol=1e-13)
    np.testing.assert_allclose(ours(10**8 * A, B), value, rtol=1e-13)
    assert ours(A, (A + 2) % K, num_labels=K) == pytest.approx(1, abs=1e-15)


@agreements
def test_weights_of_agreement_are_repeated_rows(ours, theirs):
    np.testing.assert_allclose(ours(A, B, weights=WEIGHTS), theirs(A[REPEATED], B[REPEATED]), rtol=1e-12)


@agreements
def test_agreement_under_jit_and_vmap(ours, theirs):
    many = jnp.stack([jnp.asarray(A), jnp.asarray(B), jnp.full(N, K), jnp.full(N, -1)]).astype(jnp.int8)
    values = jax.jit(jax.vmap(lambda b: ours(A, b, num_labels=K)))(many)
    np.testing.assert_allclose(values[:2], [1, theirs(A, B)], rtol=1e-12)
    # Invalid traced labels give NaN.
    assert np.isnan(values[2:]).all()


def exact_rand(table: np.ndarray) -> float:
    def pairs(counts: np.ndarray) -> Fraction:
        return sum((Fraction(int(n) * (int(n) - 1), 2) for n in counts.ravel()), Fraction(0))

    both, in_a, in_b, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    return float((both - in_a * in_b / total) / ((in_a + in_b) / 2 - in_a * in_b / total))


def exact_information(table: np.ndarray) -> float:
    with localcontext(prec=60):
        total = Decimal(int(table.sum()))

        def entropy(counts: np.ndarray) -> Decimal:
            shares = [Decimal(int(n)) / total for n in counts.ravel() if n]
            return sum((-share * share.ln() for share in shares), Decimal(0))

        each = entropy(table.sum(1)) + entropy(table.sum(0))
        return float(2 * (each - entropy(table)) / each)


# In most of these tables the plain formulas subtract nearly equal numbers in float32.
TABLES = [
    [[199_990, 3], [4, 3]],
    [[20_000_000, 3], [2, 1]],  # the plain index is 0.353, and not 0.286
    [[29_999_998, 1], [0, 1]],
    [[1, 2, 0], [3, 16_777_216, 5], [0, 7, 16_777_216]],
    [[9, 0, 1], [0, 2, 3], [2, 1, 7]],
]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("x64", [False, True])
def test_agreement_keeps_its_digits_beside_a_frequent_label(table, x64):
    table = np.array(table)
    a, b = (labels.ravel() for labels in np.indices(table.shape))
    with jax.enable_x64(x64):
        rand = metrics.adjusted_rand_index(a, b, num_labels=3, weights=table.ravel())
        information = metrics.normalized_mutual_information(a, b, num_labels=3, weights=table.ravel())
    assert rand.dtype == information.dtype == (jnp.float64 if x64 else jnp.float32)
    rounding = 4 * float(jnp.finfo(rand.dtype).eps)
    np.testing.assert_allclose(rand, exact_rand(table), rtol=rounding)
    np.testing.assert_allclose(information, exact_information(table), rtol=rounding)


@pytest.mark.slow
def test_agreement_counts_rows_past_the_integers_of_float32():
    a, b = np.zeros((2, 30_000_000), np.uint8)
    a[:2], b[:1] = 1, 1
    with jax.enable_x64(False):
        rand = metrics.adjusted_rand_index(a, b, num_labels=2)
    np.testing.assert_allclose(rand, exact_rand(np.array([[29_999_998, 0], [1, 1]])), rtol=1e-6)


@pytest.mark.slow
def test_agreement_has_the_gradient_of_finite_differences_in_the_weights():
    from jax.test_util import check_grads

    weights = 1.5 + jnp.arange(N) % 3
    check_grads(lambda w: metrics.adjusted_rand_index(A, B, weights=w, num_labels=K), (weights,), 1, modes=["rev"])


def test_stability_is_the_mean_over_pairs():
    labels = np.stack([A, B, RANDOM.permutation(B), (A + 1) % K])
    pairs = [sklearn_metrics.adjusted_rand_score(a, b) for a, b in itertools.combinations(labels, 2)]
    np.testing.assert_allclose(metrics.stability(labels), np.mean(pairs), rtol=1e-12)
    jitted = jax.jit(lambda z: metrics.stability(z, num_labels=K))
    np.testing.assert_allclose(jitted(labels), np.mean(pairs), rtol=1e-12)
    repeated = [sklearn_metrics.adjusted_rand_score(a, b) for a, b in itertools.combinations(labels[:, REPEATED], 2)]
    np.testing.assert_allclose(metrics.stability(labels, weights=WEIGHTS), np.mean(repeated), rtol=1e-12)


# Silhouettes


def their_samples(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    # Distances from SciPy: scikit-learn's own are no zero between equal rows.
    return np.asarray(sklearn_metrics.silhouette_samples(distance.cdist(x, x), labels, metric="precomputed"))


@pytest.mark.parametrize("size", [None, 7, 30, 1000])
def test_silhouette_is_that_of_scikit_learn_whatever_the_blocks(size):
    reduce = Blocks(size)
    np.testing.assert_allclose(metrics.silhouette_samples(X, B, K, reduce=reduce), their_samples(X, B), rtol=1e-10)
    np.testing.assert_allclose(
        metrics.silhouette(X, B, K, reduce=reduce), sklearn_metrics.silhouette_score(X, B), rtol=1e-10
    )


def test_silhouette_of_singletons_empty_labels_and_equal_rows():
    labels = np.where(np.arange(N) == 5, 3, A % 2)  # one row alone, label 2 without rows
    value = metrics.silhouette_samples(X, labels, K)
    np.testing.assert_allclose(value, their_samples(X, labels), rtol=1e-10)
    assert value[5] == 0
    assert metrics.silhouette(np.ones((N, 2)), A, K) == 0  # and not 0 / 0


def test_shares_are_no_counts_of_rows():
    shares = np.full(len(A), 1 / len(A))
    for call in (
        lambda: metrics.adjusted_rand_index(A, B, weights=shares),
        lambda: metrics.silhouette(X, A, K, weights=shares),
    ):
        with pytest.raises(ValueError, match="Weights count rows here"):
            call()
    hidden = jax.jit(lambda w: metrics.adjusted_rand_index(A, B, weights=w, num_labels=K))
    assert jnp.isnan(hidden(jnp.asarray(shares)))
    assert jnp.isfinite(hidden(jnp.ones(len(A))))


def test_weights_of_silhouettes_are_repeated_rows():
    samples = metrics.silhouette_samples(X, A, K, weights=WEIGHTS)
    theirs = their_samples(X[REPEATED], A[REPEATED])
    np.testing.assert_allclose(samples[REPEATED], theirs, rtol=1e-10)
    assert (samples[WEIGHTS == 0] == 0).all()
    np.testing.assert_allclose(metrics.silhouette(X, A, K, weights=WEIGHTS), theirs.mean(), rtol=1e-10)


def test_silhouette_is_deaf_to_names_order_place_and_scale():
    value = metrics.silhouette(X, A, K)
    order = RANDOM.permutation(N)
    np.testing.assert_allclose(metrics.silhouette(X[order], A[order], K), value, rtol=1e-12)
    np.testing.assert_allclose(metrics.silhouette(X, np.array([2, 0, 3, 1])[A], K), value, rtol=1e-12)
    np.testing.assert_allclose(metrics.silhouette(1e3 * X - 7, A, K), value, rtol=1e-10)


def test_silhouette_holds_in_float32_far_from_the_origin():
    far = (X + 1e4).astype(np.float32)
    value = metrics.silhouette(far, A, K)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, metrics.silhouette(far.astype(float) - 1e4, A, K), rtol=1e-5)


def test_silhouette_under_jit_and_vmap():
    many = jnp.stack([jnp.asarray(A), jnp.asarray(B), jnp.zeros(N, int), jnp.full(N, K)])
    values = jax.jit(jax.vmap(lambda labels: metrics.silhouette(X, labels, K)))(many)
    theirs = [sklearn_metrics.silhouette_score(X, labels) for labels in (A, B)]
    np.testing.assert_allclose(values[:2], theirs, rtol=1e-10)
    # One cluster, and labels out of range.
    assert np.isnan(values[2:]).all()


def test_silhouette_has_the_gradient_of_finite_differences():
    from jax.test_util import check_grads

    x, labels = X[:9], np.arange(9) % 3
    # The last block overlaps the one before it.
    check_grads(
        lambda x: metrics.silhouette(x, labels, 3, reduce=Blocks(4)), (jnp.asarray(x),), 1, modes=["rev"], rtol=1e-5
    )


# Matching


def test_match_is_the_best_of_all_permutations():
    tried = np.array(list(itertools.permutations(range(K))))
    pairs = RANDOM.normal(size=(20, 2, K, 3))
    found = jax.vmap(metrics.match)(pairs[:, 0], pairs[:, 1])
    greedy = 0
    for (a, b), p in zip(pairs, np.asarray(found), strict=True):
        costs = np.square(a[:, None] - b[None]).sum(-1)
        totals = costs[np.arange(K), tried].sum(axis=1)
        np.testing.assert_array_equal(p, tried[totals.argmin()])
        greedy += sorted(costs.argmin(axis=1)) == list(range(K))
    # The nearest alone would mostly be no permutation.
    assert greedy < 10


def test_match_undoes_a_permutation_in_float32_far_from_the_origin():
    centers = (RANDOM.normal(size=(K, 2)) + 1e4).astype(np.float32)
    order = np.array([2, 0, 3, 1])
    p = np.asarray(metrics.match(centers, centers[order]))
    np.testing.assert_array_equal(centers[order][p], centers)
    labels = np.arange(N) % K  # in the names of the shuffled ones
    np.testing.assert_array_equal(np.argsort(p)[labels], order[labels])


def test_components_that_are_off_match_such():
    a = np.array([[0.0, 0.0], [5.0, 0.0], [np.inf, np.inf], [9.0, 0.0]])
    b = np.array([[9.0, 1.0], [np.inf, np.inf], [5.0, 1.0], [0.0, 1.0]])
    assert metrics.match(a, b).tolist() == [3, 2, 1, 0]
    # A mixture keeps the mean of a component that is off; here it lies on another's.
    log_weights = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    of = [
        Mixture(log_weights[np.array(order)], Normal(jnp.asarray(means), gmm.Full(jnp.ones((3, 1, 1)))))
        for order, means in [([0, 1, 2], [[0.0], [5.0], [9.0]]), ([2, 0, 1], [[0.0], [5.1], [0.1]])]
    ]
    assert metrics.match(*of).tolist() == [2, 1, 0]


def test_match_of_traced_nan_is_minus_one():
    centers = jnp.zeros((2, K, 1)).at[1].set(jnp.nan)
    assert jax.vmap(metrics.match)(centers, centers)[1].tolist() == [-1] * K


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.adjusted_rand_index(A, B[:-1]), r"`a` and `b` must both have shape \(N,\)"),
        (lambda: metrics.adjusted_rand_index(A[None], B[None]), r"`a` and `b` must both have shape \(N,\)"),
        (lambda: metrics.adjusted_rand_index(A, B.astype(float)), "`b` must hold integer labels, got float64"),
        (lambda: metrics.normalized_mutual_information(A.astype(bool), B), "`a` must hold integer labels"),
        (lambda: metrics.adjusted_rand_index(A[:0], B[:0]), "`a` must hold integer labels"),
        (lambda: metrics.adjusted_rand_index(A - 1, B), r"must lie in \[0, K\), got values from -1"),
        (lambda: metrics.adjusted_rand_index(A, B, num_labels=3), r"must lie in \[0, 3\), got values from 0 to 3"),
        (lambda: metrics.adjusted_rand_index(A, B, num_labels=0), "`num_labels` must be a Python integer"),
        (lambda: metrics.adjusted_rand_index(A, B, num_labels=10**6), "at most 32768 labels"),
        (lambda: metrics.adjusted_rand_index(A, B, weights=-WEIGHTS), "`weights` must be finite and non-negative"),
        (lambda: jax.jit(metrics.adjusted_rand_index)(A, B), "`num_labels` must be given for traced labels"),
        (lambda: metrics.stability(A), r"`labels` must have shape \(R, N\)"),
        (lambda: metrics.stability(A[None]), "R at least 2"),
        (lambda: metrics.silhouette(X, A, 1), "`k` must be a Python integer of at least 2"),
        (lambda: metrics.silhouette(X, A, 3), r"`labels` must lie in \[0, 3\)"),
        (lambda: metrics.silhouette(X, A - 1, K), r"`labels` must lie in \[0, 4\)"),
        (lambda: metrics.silhouette(X, A.astype(float), K), "`labels` must be integers"),
        (lambda: metrics.silhouette(X, A[:-1], K), r"`labels` must have shape \(60,\)"),
        (lambda: metrics.silhouette(X, A, K, reduce=Blocks(0)), "`size` must be an integer of at least 1"),
        (lambda: metrics.silhouette(X, 0 * A, K), "at least two must have rows, got only label 0"),
        (lambda: metrics.silhouette(X, A, K, weights=A == 3), "at least two must have rows, got only label 3"),
        (lambda: metrics.match(X[:3], X[:4]), r"must have one shape \(K, D\)"),
        (lambda: metrics.match(X[0], X[1]), r"`a` must be centers of shape \(K, D\)"),
        (lambda: metrics.match(X, np.nan * X), "`b` must be numbers, but it holds NaN"),
        (lambda: metrics.bic(mixture(gmm.Full), X[:, :1]), r"^`x` has 1 columns, but the model has 2 features"),
    ],
)
def test_bad_input_is_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
