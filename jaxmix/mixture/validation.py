"""Validation of the parameters of mixtures that a user gives."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import validation
from jaxmix.data import Data
from jaxmix.mixture.component import Component
from jaxmix.mixture.model import Mixture, check_mixture, component_of
from jaxmix.typing import ArrayLike

SLACK = 1e-3
"""How far from 1 given weights may sum."""


def as_mixture_and_data(
    params: Any,
    x: ArrayLike | Data,
    weights: ArrayLike | None = None,
    component: Component | None = None,
    *,
    has_weights: bool = True,
) -> tuple[Component, Mixture, Data]:
    """A component, a mixture of it, and rows of the same features.

    Args:
      params: as in `as_mixture`.
      x: as in `validation.as_rows`; rows that NumPy holds stay there, as `inference.of_rows` takes them.
      weights: as in `validation.as_rows`.
      component: what the mixture is made of; None for the component that its parameters name.
      has_weights: as in `validation.as_rows`.

    Raises:
      ValueError: as `as_mixture` and `validation.as_rows` do.
    """
    component = component_of(params, component)
    params = as_mixture(params, component)
    width = jax.tree.leaves(params.components)[0].shape[-1]
    data = validation.as_rows(x, weights, width=width, has_weights=has_weights, in_place=True)
    return component, params, data


def as_mixture(params: Any, component: Component, name: str = "params") -> Mixture:
    """A mixture of floating arrays; concrete values that are not a mixture are rejected.

    Components that are switched off may hold arbitrary values: where these are not valid, they become those of
    `Component.initial`.

    Args:
      params: a `Mixture`, whose leaves may be NumPy arrays or lists.
      component: what it is made of.
      name: what to call it in an error.

    Returns:
      The `Mixture`, each leaf in its own dtype.

    Raises:
      ValueError: naming the leaf, for another type, shape or dtype; for concrete NaN, entries that break a constraint,
        or weights that do not sum to 1.
    """
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval() if validation.is_concrete(params) else contextlib.nullcontext():
        params = _shaped(params, component, name, (None, None), ranks=(2,))
        return _usable(params, component, name, may_fail=False)


def as_starts(init: Any, k: int, num_features: int, dtype: Any, component: Component) -> Mixture:
    """Mixtures to start from, with a leading axis R. One that holds NaN is let through, and ends its own fit alone.

    Args:
      init: a `Mixture`, whose leaves may have a leading axis R.
      k: the number of components.
      num_features: D.
      dtype: that of the data.
      component: what it is made of.

    Returns:
      A `Mixture` with a leading axis on every leaf.

    Raises:
      ValueError: as `as_mixture` does, but for NaN; for another number of components.
    """
    with jax.ensure_compile_time_eval() if validation.is_concrete(init) else contextlib.nullcontext():
        shaped = _shaped(init, component, "init", (k, num_features), ranks=(2, 3))
        starts = _usable(shaped, component, "init", may_fail=True)
    lead = 2 - starts.log_weights.ndim
    return jax.tree.map(lambda leaf: leaf.astype(dtype)[(None,) * lead], starts)


def initial_shapes(component: Component, k: int, num_features: int) -> Any:
    """The shapes of the leaves of K components, as `jax.ShapeDtypeStruct`."""
    return _shapes(jax.tree.structure(component), k, num_features)


def check_form(params: Mixture, component: Component, name: str) -> None:
    """Rejects parameters of other components.

    Raises:
      ValueError: with both forms.
    """
    structure = jax.tree.structure(params.components, is_leaf=_is_list)
    expected = jax.tree.structure(initial_shapes(component, 1, 1))
    if structure != expected:
        raise ValueError(
            f"`{name}.components` must have the form {_form(expected)}, got {_form(structure)}. "
            "Give the model the same component, such as `covariance=gmm.Tied` for mixtures of that family."
        )


def each_component(component: Component, params: Mixture, flags: list[Any], numpy: Any) -> Any:
    """Whether all flags of a component are set, of shape (..., K), from those of each leaf."""
    lead = params.log_weights.ndim - 1
    found = numpy.ones(params.log_weights.shape, bool)
    for flag, is_own in zip(flags, _own(component, params), strict=True):
        kept = lead + is_own
        whole = numpy.all(flag, axis=tuple(range(kept, flag.ndim)))
        found = found & (whole if is_own else numpy.expand_dims(whole, -1))
    return found


@functools.cache
def _shapes(structure: Any, k: int, num_features: int) -> Any:
    component = jax.tree.unflatten(structure, [None] * structure.num_leaves)
    return jax.eval_shape(lambda: component.initial(k, num_features, jnp.float32))


def _form(structure: Any) -> str:
    """A structure in words: the names of its types and fields, such as `Normal(means=..., covariance=...)`."""
    return str(jax.tree.unflatten(structure, [...] * structure.num_leaves)).replace("Ellipsis", "...")


def _is_list(node: Any) -> bool:
    return isinstance(node, list)


def _shaped(
    params: Any, component: Component, name: str, size: tuple[int | None, int | None], ranks: tuple[int, ...]
) -> Mixture:
    check_mixture(params, name)
    paths, structure = jax.tree_util.tree_flatten_with_path(params.components, is_leaf=_is_list)
    names = [f"{name}{jax.tree_util.keystr(path)}" if path else f"{name}.components" for path, _ in paths]
    check_form(params, component, name)
    arrays = [validation.as_floating(value, part) for part, (_, value) in zip(names, paths, strict=True)]
    first = arrays[0]
    fits = all(wanted in (None, found) for wanted, found in zip(size, first.shape[-2:], strict=False))
    if first.ndim not in ranks or not fits or 0 in first.shape:
        k, num_features = (letter if wanted is None else wanted for letter, wanted in zip("KD", size, strict=True))
        many = " or a leading axis R" if 3 in ranks else ""
        hint = " Of several fits choose one, as `solve.best` does." if first.ndim == 3 and not many else ""
        raise ValueError(f"`{names[0]}` must have shape ({k}, {num_features}){many}, got {first.shape}.{hint}")
    lead, shapes = first.shape[:-2], jax.tree.leaves(initial_shapes(component, *first.shape[-2:]))
    log_weights = validation.as_floating(params.log_weights, f"{name}.log_weights")
    wanted = [(f"{name}.log_weights", log_weights, first.shape[-2:-1])]
    wanted += [(part, array, like.shape) for part, array, like in zip(names, arrays, shapes, strict=True)]
    for part, array, shape in wanted:
        if array.shape != lead + shape:
            where = f"`{names[0]}` of shape {first.shape}"
            raise ValueError(f"`{part}` must have shape {lead + shape} for {where}, got {array.shape}.")
    return Mixture(log_weights, jax.tree.unflatten(structure, arrays))


def _usable(params: Mixture, component: Component, name: str, *, may_fail: bool) -> Mixture:
    """The mixture with inactive components made harmless; concrete values that are not a mixture are rejected.

    With `may_fail` a mixture that holds NaN is let through: it is that of a fit which failed.
    """
    concrete = validation.is_concrete(params)
    # By NumPy, nothing is compiled.
    numpy: Any = np if concrete else jnp
    read = jax.tree.map(np.asarray, params) if concrete else params
    on = ~numpy.isneginf(read.log_weights)
    valid = each_component(component, read, component.is_valid(read.components, numpy), numpy)
    if concrete:
        _reject(read, component, name, on, valid, may_fail=may_fail)
        if (on | valid).all():
            return params
    usable = on | valid
    leaves, structure = jax.tree.flatten(params.components)
    k, num_features = leaves[0].shape[-2:]
    others = jax.tree.leaves(component.initial(k, num_features, leaves[0].dtype))

    def harmless(leaf: Array, other: Array) -> Array:
        chosen = usable.reshape(*usable.shape, *(1,) * (leaf.ndim - usable.ndim))
        return jnp.where(chosen, leaf, other.astype(leaf.dtype)[(None,) * (leaf.ndim - other.ndim)])

    triples = zip(leaves, others, _own(component, params), strict=True)
    leaves = [harmless(leaf, other) if is_own else leaf for leaf, other, is_own in triples]
    return params._replace(components=jax.tree.unflatten(structure, leaves))


def _reject(
    read: Mixture, component: Component, name: str, on: np.ndarray, valid: np.ndarray, *, may_fail: bool
) -> None:
    numbers = [~np.isnan(leaf) for leaf in jax.tree.leaves(read.components)]
    known = ~np.isnan(read.log_weights) & each_component(component, read, numbers, np)
    failed = (~known & on).any(axis=-1, keepdims=True) & may_fail
    if not (~on | failed | (known & valid)).all():
        raise ValueError(
            f"`{name}` must be a mixture of finite numbers with covariances that are positive definite, but it holds "
            "NaN, infinity, or a scale that is not above 0. If it is that of a fit, see its status."
        )
    misread = component.misread(read.components)
    if misread is not None and not (~on | failed | each_component(component, read, misread[0], np)).all():
        raise ValueError(f"`{name}.{misread[1]}")
    with np.errstate(over="ignore"):
        sums = np.exp(read.log_weights.astype(float)).sum(axis=-1, keepdims=True)
    if not (failed | (np.abs(sums - 1) <= SLACK)).all():
        raise ValueError(
            f"`{name}.log_weights` must be logarithms of weights that sum to 1, but these sum to "
            f"{sums[~failed].max():.6g}. From weights, use gmm.mixture(weights, means, covariances)."
        )


def _own(component: Component, params: Mixture) -> list[bool]:
    """Which leaves have a part for each component: their shapes grow with K."""
    k, num_features = jax.tree.leaves(params.components)[0].shape[-2:]
    pairs = (jax.tree.leaves(initial_shapes(component, num, num_features)) for num in (k, k + 1))
    return [like.shape != more.shape for like, more in zip(*pairs, strict=True)]
