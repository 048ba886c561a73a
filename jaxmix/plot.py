"""Pictures of fits. Each function draws on the `Axes` it is given and returns what it drew; none shows anything.

Not imported with jaxmix: `from jaxmix import plot`, which needs matplotlib (`pip install 'jaxmix[plot]'`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmix import extras, gmm, kmeans
from jaxmix.arrays import as_numbers, check_on_host, described
from jaxmix.mixture import Mixture
from jaxmix.mixture.model import check_mixture
from jaxmix.solver import Fit, Status
from jaxmix.typing import ArrayLike

with extras.needed("plot"):
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import ListedColormap, to_rgb
    from matplotlib.contour import QuadContourSet
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse
    from matplotlib.patheffects import withStroke

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito (2008): told apart by color-blind readers and in gray print. Components take them in turn."""

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def scatter(
    ax: Axes, x: ArrayLike, labels: ArrayLike | None = None, centers: ArrayLike | None = None, *, size: float = 9.0
) -> list[PathCollection]:
    """Rows, colored by their cluster, and centers as stars.

    Args:
      ax: where to draw.
      x: array of shape (N, 2).
      labels: integers of shape (N,); None for gray rows.
      centers: array of shape (K, 2), or None. Those that are off (not finite) are left out.
      size: of the rows, in points squared.

    Returns:
      The rows, and the centers if there are any.

    Raises:
      ValueError: for rows that are not of two features, or labels that are not one integer for each.

    Example:
      >>> import matplotlib.figure
      >>> import jax.numpy as jnp
      >>> from jaxmix import plot
      >>> ax = matplotlib.figure.Figure().add_subplot()
      >>> len(plot.scatter(ax, jnp.zeros((3, 2)), jnp.array([0, 1, 1]), jnp.eye(2)))
      2
    """
    x = _plane(x, "x")
    colors: Any = "#999999"
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != x.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"`labels` must be integers of shape ({len(x)},), one for each row of `x`, got {labels.dtype} of shape "
                f"{labels.shape}."
            )
        colors = [_color(label) for label in labels]
    drawn = [ax.scatter(*x.T, s=size, c=colors, alpha=0.6, linewidths=0)]
    if centers is not None:
        centers = _plane(centers, "centers")
        is_on = np.isfinite(centers).all(axis=1)
        faces = [_color(k) for k in np.flatnonzero(is_on)]
        drawn.append(
            ax.scatter(*centers[is_on].T, s=130, c=faces, marker="*", edgecolors="black", linewidths=0.9, zorder=5)
        )
    return drawn


def ellipses(ax: Axes, params: Mixture, *, deviations: Sequence[float] = (1.0, 2.0)) -> list[Ellipse]:
    r"""Where each component's Mahalanobis distance is one and two: $(x - m_k)^T C_k^{-1} (x - m_k) = r^2$.

    Args:
      ax: where to draw.
      params: a mixture of two features; components that are off are left out.
      deviations: the distances r.

    Returns:
      An ellipse for each component and distance.

    Raises:
      ValueError: for a mixture that is not of two features; draw `gmm.marginal` of two.

    Example:
      >>> import matplotlib.figure
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm, plot
      >>> mixture = gmm.mixture([1.0], jnp.zeros((1, 2)), jnp.eye(2)[None])
      >>> plot.ellipses(matplotlib.figure.Figure().add_subplot(), mixture)[1].width
      4.0
    """
    check_mixture(params, "params")
    means = _plane(params.means, "params.means")
    drawn = []
    for k in np.flatnonzero(np.asarray(params.is_on)):
        values, vectors = np.linalg.eigh(np.asarray(params.covariances[k], float))
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        for radius in deviations:
            minor, major = 2 * radius * np.sqrt(values)
            patch = Ellipse(means[k].tolist(), float(major), float(minor), angle=float(angle))
            width = 1.6 if radius == deviations[0] else 0.9
            patch.set(facecolor="none", edgecolor=_color(k), linewidth=width, zorder=4)
            # Seen on rows of its own color.
            patch.set_path_effects([withStroke(linewidth=width + 1.6, foreground="white")])
            drawn.append(ax.add_patch(patch))
    ax.autoscale_view()
    return drawn


def regions(ax: Axes, params: Any, *, num: int = 300) -> QuadContourSet:
    """The parts of the plane that belong to each cluster, and the boundaries between them, within the axes' limits.

    Args:
      ax: where to draw; its limits are kept, so draw the rows first.
      params: centers of shape (K, 2), a `Mixture` of two features, or a function from rows (n, 2) to labels (n,).
      num: points along each side of the grid.

    Returns:
      The filled contours.

    Raises:
      ValueError: for parameters that are not of two features.

    Example:
      >>> import matplotlib.figure
      >>> import jax.numpy as jnp
      >>> from jaxmix import plot
      >>> ax = matplotlib.figure.Figure().add_subplot()
      >>> plot.regions(ax, jnp.array([[0.0, 0.0], [1.0, 1.0]])).levels.tolist()
      [-0.5, 0.5, 1.5]
    """
    predict = _predictor(params)
    limits = ax.get_xlim(), ax.get_ylim()
    across, up = (np.linspace(*limit, num) for limit in limits)
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)
    labels = np.asarray(predict(grid)).reshape(num, num)
    levels = np.arange(labels.max() + 2) - 0.5
    colors = ListedColormap([_color(k) for k in range(len(levels) - 1)])
    drawn = ax.contourf(across, up, labels, levels=levels, cmap=colors, alpha=0.14, zorder=0)
    if len(levels) > 2:
        # A boundary of each cluster alone: contours of labels would pass through those between 0 and 2.
        for k in range(len(levels) - 1):
            ax.contour(across, up, labels == k, levels=[0.5], colors="black", linewidths=0.6, zorder=1)
    ax.set(xlim=limits[0], ylim=limits[1])
    return drawn


def responsibilities(ax: Axes, x: ArrayLike, resp: ArrayLike, *, size: float = 12.0) -> PathCollection:
    """Rows in the colors of their components, mixed by responsibility.

    Args:
      ax: where to draw.
      x: array of shape (N, 2).
      resp: array of shape (N, K), whose rows sum to 1.
      size: in points squared.

    Returns:
      The rows.

    Raises:
      ValueError: for rows that are not of two features, or another number of responsibilities than rows.

    Example:
      >>> import matplotlib.figure
      >>> import jax.numpy as jnp
      >>> from jaxmix import plot
      >>> ax = matplotlib.figure.Figure().add_subplot()
      >>> plot.responsibilities(ax, jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).get_facecolor().shape
      (1, 4)
    """
    x, resp = _plane(x, "x"), np.asarray(as_numbers(resp, "resp"), float)
    if resp.ndim != 2 or len(resp) != len(x):
        raise ValueError(f"`resp` must have shape ({len(x)}, K), one row for each of `x`, got {resp.shape}.")
    pure = np.array([to_rgb(_color(k)) for k in range(resp.shape[1])])
    return ax.scatter(*x.T, s=size, c=np.clip(resp @ pure, 0, 1), linewidths=0)


def trace(ax: Axes, fits: Fit, *, best: float | None = None) -> list[Line2D]:
    """The loss of every fit against its steps, in the color of its status.

    Args:
      ax: where to draw; it gets a legend of the statuses and how many fits have each.
      fits: a `Fit`, or one with any leading axes, such as those of a sweep and of restarts.
      best: a loss to draw differences from, on a logarithmic axis; None for the losses themselves.

    Returns:
      A line for each fit, in their order, the last axis fastest.

    Example:
      >>> import matplotlib.figure
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans, plot
      >>> fits = kmeans.fit_restarts(jax.random.key(0), jnp.arange(6.0)[:, None], 2, restarts=4)
      >>> len(plot.trace(matplotlib.figure.Figure().add_subplot(), fits))
      4
    """
    if not isinstance(fits, Fit):
        raise ValueError(f"`fits` must be a `Fit`, got {described(fits)}.")
    losses = np.asarray(fits.trace, float)
    losses = losses.reshape(-1, losses.shape[-1])
    statuses = np.asarray(fits.status).ravel()
    drawn, named = [], set()
    for losses_of_one, status in zip(losses, statuses, strict=True):
        style = list(Status).index(Status(status)) - 1  # `RUNNING`, which no fit ends with, comes first
        label = None
        if status not in named:
            named.add(status)
            label = f"{Status(status).name.lower().replace('_', ' ')}: {(statuses == status).sum()}"
        shown = losses_of_one if best is None else losses_of_one - best
        drawn += ax.plot(
            np.arange(len(shown)), shown, color=_color(style), linestyle=LINES[style % 4], linewidth=1, label=label
        )
    ax.set_xlim(0, max(int(np.max(fits.num_steps)), 1))
    ax.set_xlabel("steps")
    ax.set_ylabel("loss" if best is None else "loss above the best")
    if best is not None:
        ax.set_yscale("log", nonpositive="mask")
    ax.legend()
    return drawn


def criteria(
    ax: Axes, ks: ArrayLike, values: Mapping[str, ArrayLike], *, name: str = "BIC", lowest: bool = True
) -> list[Line2D]:
    """A criterion against the number of components, a line for each family; the best of all is ringed.

    Args:
      ax: where to draw.
      ks: array of shape (num,), the numbers of components.
      values: for each family an array of shape (num,); what is not finite is left out.
      name: of the criterion.
      lowest: whether lower is better, as here and not in mclust.

    Returns:
      A line for each family.

    Raises:
      ValueError: for `ks` of another rank, or a family with another number of values than `ks`.

    Example:
      >>> import matplotlib.figure
      >>> from jaxmix import plot
      >>> ax = matplotlib.figure.Figure().add_subplot()
      >>> len(plot.criteria(ax, [1, 2], {"Full": [3.0, 2.0], "Tied": [3.0, 4.0]}))
      2
    """
    ks = np.asarray(ks)
    if ks.ndim != 1:
        raise ValueError(f"`ks` must have shape (num,), got {ks.shape}.")
    drawn, best = [], None
    for i, (family, row) in enumerate(values.items()):
        row = np.asarray(row, float)
        if row.shape != ks.shape:
            raise ValueError(f"`values[{family!r}]` must have shape {ks.shape}, as `ks` has, got {row.shape}.")
        row = np.where(np.isfinite(row), row, np.nan)
        style: dict[str, Any] = {
            "color": _color(i),
            "marker": MARKERS[i % 8],
            "linestyle": LINES[i // 8 % 4],
            "label": family,
        }
        drawn += ax.plot(ks, row, markersize=4.5, linewidth=1.2, **style)
        if np.isfinite(row).any():
            at = int(np.nanargmin(row) if lowest else np.nanargmax(row))
            sign = 1 if lowest else -1
            if best is None or sign * row[at] < sign * best[1]:
                best = (ks[at], row[at], family)
    if best is not None:
        ax.plot(*best[:2], "o", markersize=12, fillstyle="none", color="black", label=f"best: {best[2]}, K = {best[0]}")
    ax.set_xlabel("K")
    ax.set_ylabel(name)
    ax.set_xticks(ks)
    ax.legend()
    return drawn


def image(ax: Axes, labels: ArrayLike, centers: ArrayLike) -> AxesImage:
    """What a code book makes of an image: each pixel as the color of its code.

    Args:
      ax: where to draw; its ticks go.
      labels: integers of shape (H, W), the codes, as `kmeans.predict` gives them.
      centers: array of shape (K, 3), or (K, 1) for gray, the code book, between 0 and 1.

    Returns:
      The image.

    Raises:
      ValueError: for labels that are no image, or codes that are no colors.

    Example:
      >>> import matplotlib.figure
      >>> import jax.numpy as jnp
      >>> from jaxmix import plot
      >>> ax = matplotlib.figure.Figure().add_subplot()
      >>> plot.image(ax, jnp.zeros((4, 6), int), jnp.ones((2, 3))).get_array().shape
      (4, 6, 3)
    """
    labels, centers = np.asarray(as_numbers(labels, "labels")), np.asarray(as_numbers(centers, "centers"))
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"`labels` must be integers of shape (H, W), got {labels.dtype} of shape {labels.shape}.")
    if centers.ndim != 2 or centers.shape[1] not in (1, 3):
        raise ValueError(f"`centers` must be colors of shape (K, 3) or (K, 1), got {centers.shape}.")
    decoded = np.clip(centers, 0, 1)[labels]
    ax.set_axis_off()
    return ax.imshow(np.broadcast_to(decoded, (*labels.shape, 3)), interpolation="nearest")


def _color(k: int | np.integer) -> str:
    return COLORS[int(k) % len(COLORS)]


def _plane(x: ArrayLike, name: str) -> np.ndarray:
    check_on_host("plot", x)
    array = np.asarray(as_numbers(x, name), float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`{name}` must have two features to be drawn, of shape (N, 2), got {array.shape}. Take two columns, or "
            "project onto the first two principal components. Of several fits choose one, as `solve.best` does."
        )
    return array


def _predictor(params: Any) -> Callable[[np.ndarray], Any]:
    if isinstance(params, Mixture):
        _plane(params.means, "params.means")
        return lambda grid: gmm.predict(params, grid.astype(params.means.dtype))
    if callable(params):
        return params
    centers = _plane(params, "params")
    return lambda grid: kmeans.predict(centers.astype(np.float32), grid)
