"""What is drawn is what was fitted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jaxmix
from jaxmix import Fit, Status, gmm, kmeans, plot

X = np.random.default_rng(0).normal(size=(40, 2))
UNTYPED: Any = jaxmix  # leaves may be NumPy arrays
COVARIANCES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def colors(drawn):
    return np.asarray(drawn.get_facecolor())[:, :3]


def mixture(covariance):
    return gmm.start.from_centers(X[:3], X, problem=gmm.GaussianMixture(covariance))


def test_rows_and_centers_stand_where_they_are_in_their_colors(ax):
    labels = np.arange(40) % 3
    rows, stars = plot.scatter(ax, X, labels, np.vstack([X[:2], [np.inf, np.inf]]))
    np.testing.assert_array_equal(rows.get_offsets(), X)
    np.testing.assert_array_equal(stars.get_offsets(), X[:2])
    np.testing.assert_allclose(colors(rows)[1], to_rgb(plot.COLORS[1]))
    np.testing.assert_allclose(colors(stars)[1], to_rgb(plot.COLORS[1]))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_ellipses_are_of_the_mahalanobis_distance_asked_for(ax, covariance):
    params = mixture(covariance)
    drawn = plot.ellipses(ax, params, deviations=(1.0, 2.5))
    assert len(drawn) == 6
    for i, patch in enumerate(drawn):
        k, radius = i // 2, (1.0, 2.5)[i % 2]
        around = patch.get_patch_transform().transform(np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]]))
        apart = around - np.asarray(params.means[k])
        squares = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(params.covariances[k]), apart)
        np.testing.assert_allclose(squares, radius**2, rtol=1e-6)


def test_a_component_that_is_off_has_no_ellipse(ax):
    params = mixture(gmm.Full)._replace(log_weights=jnp.log(jnp.array([0.5, 0.0, 0.5])))
    assert len(plot.ellipses(ax, params, deviations=(1.0,))) == 2


@pytest.mark.parametrize("kind", ["centers", "mixture", "function"])
def test_regions_are_those_of_the_labels(ax, kind):
    params = {"centers": X[:3], "mixture": mixture(gmm.Full), "function": lambda rows: (rows[:, 0] > 0).astype(int)}
    predict = {
        "centers": lambda rows: kmeans.predict(X[:3], rows),
        "mixture": lambda rows: gmm.predict(params["mixture"], rows),
        "function": params["function"],
    }
    plot.scatter(ax, X)
    limits = ax.get_xlim(), ax.get_ylim()
    drawn = plot.regions(ax, params[kind], num=80)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    found = np.asarray(predict[kind](X))
    inside = np.array([[path.contains_point(row) for path in drawn.get_paths()] for row in X])
    # Rows within a step of the grid from a boundary may fall to its other side.
    assert (inside[np.arange(40), found]).mean() > 0.9
    assert len(drawn.get_paths()) == found.max() + 1


def test_responsibilities_mix_the_colors(ax):
    resp = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = colors(plot.responsibilities(ax, X[:3], resp))
    np.testing.assert_allclose(found[0], to_rgb(plot.COLORS[0]))
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2)
    with pytest.raises(ValueError, match=r"`resp` must have shape \(3, K\)"):
        plot.responsibilities(ax, X[:3], resp[:2])


def test_a_trace_is_the_losses_of_each_restart_with_statuses_counted(ax):
    losses = jnp.array([[3.0, 1.0, 1.0, 1.0], [4.0, 2.0, 1.0, 1.0], [jnp.nan] * 4])
    status = jnp.array([Status.CONVERGED, Status.CONVERGED, Status.NONFINITE])
    fits = Fit(X, losses[:, -1], status, jnp.array([1, 2, 0]), jnp.ones(3), losses)
    lines = plot.trace(ax, fits)
    for line, row in zip(lines, losses, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["converged: 2", "nonfinite: 1"]
    assert lines[0].get_color() != lines[2].get_color()
    assert ax.get_xlim() == (0, 2)  # no restart took more steps
    one = plot.trace(ax, jax.tree.map(lambda leaf: leaf[0], fits), best=0.5)
    np.testing.assert_array_equal(one[0].get_ydata(), losses[0] - 0.5)


def test_a_trace_of_a_sweep_is_a_line_for_each_fit(ax):
    losses = np.arange(24.0).reshape(2, 3, 4)
    status = np.array([[Status.CONVERGED] * 3, [Status.CONVERGED, Status.MAX_STEPS, Status.CONVERGED]])
    numbers = np.ones((2, 3))
    lines = plot.trace(ax, UNTYPED.Fit(np.zeros((2, 3, 1, 2)), losses[..., 3], status, numbers, numbers, losses))
    for line, row in zip(lines, losses.reshape(6, 4), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["converged: 5", "max steps: 1"]
    assert [i for i, line in enumerate(lines) if line.get_color() != lines[0].get_color()] == [4]


@pytest.mark.parametrize("lowest", [True, False])
def test_the_best_of_the_criteria_is_ringed(ax, lowest):
    sign = 1 if lowest else -1
    values = {"Full": sign * np.array([5.0, 3.0, 4.0]), "Tied": sign * np.array([np.inf, 2.0, np.nan])}
    lines = plot.criteria(ax, [1, 2, 3], values, lowest=lowest)
    assert [line.get_label() for line in lines] == ["Full", "Tied"]
    ring = ax.get_lines()[-1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0], ring.get_label()) == (2, sign * 2.0, "best: Tied, K = 2")
    with pytest.raises(ValueError, match="must have shape"):
        plot.criteria(ax, [1, 2], values)


@pytest.mark.parametrize("depth", [1, 3])
def test_an_image_is_what_the_code_book_reconstructs(ax, depth):
    centers = np.random.default_rng(1).uniform(size=(4, depth))
    labels = np.arange(24).reshape(4, 6) % 4
    drawn = np.asarray(plot.image(ax, labels, centers).get_array())
    np.testing.assert_allclose(drawn, np.broadcast_to(centers[labels], (4, 6, 3)), atol=1e-12)


def test_arrays_of_other_shapes_are_rejected(ax):
    with pytest.raises(ValueError, match=r"`x` must have two features"):
        plot.scatter(ax, np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"`centers` must have two features .* Of several fits choose one"):
        plot.scatter(ax, X, centers=np.zeros((4, 3, 2)))
    for labels in (np.zeros(3, int), np.zeros((2, 40), int), np.zeros(40)):
        with pytest.raises(ValueError, match=r"`labels` must be integers of shape \(40,\)"):
            plot.scatter(ax, X, labels)
    with pytest.raises(ValueError, match=r"`ks` must have shape \(num,\)"):
        plot.criteria(ax, [[1, 2], [3, 4]], {"Full": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"`params` must have two features"):
        plot.regions(ax, np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"`params.means` must have two features"):
        plot.ellipses(ax, gmm.mixture([1.0], jnp.zeros((1, 3)), jnp.eye(3)[None]))
    with pytest.raises(ValueError, match=r"`labels` must be integers of shape \(H, W\)"):
        plot.image(ax, np.zeros(3, int), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`centers` must be colors"):
        plot.image(ax, np.zeros((2, 2), int), np.zeros((2, 4)))


def test_a_fit_in_place_of_its_parameters_and_parameters_in_place_of_a_fit_are_named(ax):
    fit = kmeans.fit(jax.random.key(0), X, 2, restarts=1, max_steps=2)
    untyped: Any = plot
    for draw in (
        lambda: untyped.scatter(ax, X, centers=fit),
        lambda: untyped.regions(ax, fit),
        lambda: untyped.ellipses(ax, fit),
        lambda: untyped.image(ax, np.zeros((2, 2), int), fit),
    ):
        with pytest.raises(ValueError, match=r"is a `Fit`, not its parameters. Give `fit.params`"):
            draw()
    with pytest.raises(ValueError, match="`fits` must be a `Fit`, got an array"):
        untyped.trace(ax, fit.params)


def test_text_and_traced_rows_are_not_drawn(ax):
    with pytest.raises(ValueError, match="`x` must hold real numbers, but it holds strings"):
        plot.scatter(ax, X.astype(str))
    with pytest.raises(ValueError, match="`plot` is for the host"):
        jax.jit(lambda x: plot.scatter(ax, x))(X)
