"""Choices: problems, solvers and components as frozen dataclasses that travel through `jax.jit` and `jax.vmap`."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")

_STATIC = "static"


def static(*, default: Any = dataclasses.MISSING, kw_only: bool = False) -> Any:
    """A field of a `choice` that is part of the tree's structure: a function, a class, or a number that sets a shape.

    Args:
      default: its default, if it has one.
      kw_only: whether it is given by name alone.

    Returns:
      A field of a dataclass.

    Example:
      >>> from jaxmix.pytree import choice, static
      >>> @choice
      ... class Power:
      ...     exponent: int = static(default=2)
      >>> jax.tree.leaves(Power(3))
      []
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={_STATIC: True})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def choice(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree: its fields are leaves, but for those marked `static`.

    Its class is part of the tree's structure: `jax.jit` never takes one choice for another. (JAX finds two dataclasses
    without fields equal when they are registered by `jax.tree_util.register_dataclass`.) Instances have no `==`, which
    would compare arrays.

    Args:
      cls: a class with annotated fields.

    Returns:
      The class.

    Example:
      >>> from jaxmix.pytree import choice
      >>> @choice
      ... class Scaled:
      ...     factor: float = 2.0
      >>> jax.tree.map(lambda leaf: leaf + 1, Scaled()).factor
      3.0
    """
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(made)
    names = tuple(f.name for f in fields if not f.metadata.get(_STATIC))
    fixed = tuple(f.name for f in fields if f.metadata.get(_STATIC))

    def flatten_with_keys(node: Any) -> tuple:
        keyed = tuple((jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in names)
        return keyed, tuple(getattr(node, name) for name in fixed)

    def flatten(node: Any) -> tuple:
        return tuple(getattr(node, name) for name in names), tuple(getattr(node, name) for name in fixed)

    def unflatten(values: tuple, leaves: Any) -> Any:
        # Leaves may be tracers or placeholders: nothing is validated here.
        node = object.__new__(made)
        for name, value in (*zip(names, leaves, strict=True), *zip(fixed, values, strict=True)):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def is_choice(value: Any) -> bool:
    """Whether the class of a value was made by `choice`, itself and not only a class that it inherits from.

    Args:
      value: an instance.

    Returns:
      A bool.

    Example:
      >>> from jaxmix import kmeans
      >>> is_choice(kmeans.KMeans()), is_choice(kmeans.KMeans)
      (True, False)
    """
    return dataclasses.is_dataclass(type(value)) and not jax.tree_util.all_leaves([value])
