"""Sums over rows that lie on several devices, and fits whose starts do."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmix import arrays, devices, frame
from jaxmix.arrays import is_merged
from jaxmix.data import Data, Rows
from jaxmix.merging import merge
from jaxmix.pytree import choice, static
from jaxmix.reduction import Blocks
from jaxmix.typing import Stats


@choice
class Sharded(Blocks):
    r"""Sums over rows that are spread over the devices of a mesh.

    $$s = \sum_d \sum_{n \in d} f(p, x_n)$$

    Each device sums its own rows by blocks, and one all-reduce a pass adds what the devices have: all statistics
    together, as one vector. Its size depends on the parameters alone, not on the rows. Every device then takes the same
    M-step. A fit of a concrete array that is sharded over its first axis has this reduce by itself.

    The functions of a fit take rows on one device too: they are padded with rows of weight 0 to a multiple of the
    devices, and spread. Inside of your own `jit` an array does not show its sharding, so that this must be named.

    A second axis, `starts`, spreads the restarts of a fit: each group of devices runs its own share, and waits for the
    others when it has ended.

    Attributes:
      mesh: a `jax.sharding.Mesh`, static.
      axis: the axis of the mesh, or axes, that the rows are spread over, static. None: every device has all rows.
      starts: the axis that the starts of many fits are spread over, static; None for none.
      size: as of `Blocks`.

    Raises:
      ValueError: when it is used, for axes that the mesh does not have, or one that is named twice.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import Sharded, kmeans
      >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> kmeans.fit(jax.random.key(0), x, 2, reduce=Sharded(mesh)).loss.item()
      1.0
    """

    mesh: Any = static(default=None)
    axis: devices.Axes | None = static(default="rows")
    starts: str | None = static(default=None, kw_only=True)
    size: int | None = static(default=None, kw_only=True)

    def validate(self) -> None:
        """Rejects a mesh that is none, and axes that it does not have."""
        super().validate()
        if not isinstance(self.mesh, Mesh):
            raise ValueError(
                f"`mesh` of `Sharded` must be a jax.sharding.Mesh, got {arrays.described(self.mesh)}. Make one by "
                'jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,)).'
            )
        names = [*devices.names_of(self.axis), *devices.names_of(self.starts)]
        unknown = [name for name in names if name not in self.mesh.axis_names]
        if unknown or len(set(names)) < len(names) or not names:
            raise ValueError(
                f"`axis` and `starts` of `Sharded` must name different axes of its mesh, {self.mesh.axis_names}, got "
                f"{self.axis!r} and {self.starts!r}."
            )

    @property
    def num_parts(self) -> int:
        """Over how many devices the rows are spread."""
        return devices.parts_of(self.mesh, self.axis)

    @property
    def own(self) -> Blocks:
        """The sums over the rows of one device, or of rows that every device has."""
        return Blocks(self.size)

    def own_key(self, key: Array) -> Array:
        """A key for each device, from one that all have."""
        return key if self.num_parts == 1 else jax.random.fold_in(key, jax.lax.axis_index(self.axis))

    def __call__(self, fn: Callable[[Any, Rows], Stats], prepared: Any, rows: Rows) -> Stats:
        """The merged values over the rows of all devices; called on each device with its own rows."""
        return self.total(super().__call__(fn, prepared, rows))

    def total(self, stats: Stats) -> Stats:
        """The statistics of all devices together, on each of them."""
        if self.num_parts == 1:
            return stats
        nodes, structure = jax.tree.flatten(stats, is_leaf=is_merged)
        index = jax.lax.axis_index(self.axis)

        def in_slot(leaf: Array) -> Array:
            # A place for each device: what is no sum is collected by the same all-reduce.
            here = (jnp.arange(self.num_parts) == index).reshape(-1, *(1,) * leaf.ndim)
            return jnp.where(here, leaf[None], jnp.zeros_like(leaf)[None])

        sent = [jax.tree.map(in_slot, node) if is_merged(node) else node for node in nodes]
        received = _all_reduced(sent, self.axis)

        def merged(node: Any, slots: Any) -> Any:
            if not is_merged(node):
                return slots
            every = [jax.tree.map(lambda leaf, i=i: leaf[i], slots) for i in range(self.num_parts)]
            found = every[0]
            for other in every[1:]:
                found = merge(found, other)
            return found

        return jax.tree.unflatten(structure, [merged(*pair) for pair in zip(nodes, received, strict=True)])


def _all_reduced(tree: Any, axes: Any) -> Any:
    """The sum of a pytree over devices: one all-reduce for each dtype."""
    leaves, structure = jax.tree.flatten(tree)
    found: list[Any] = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        packed = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in places]), axes)
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        for i, part in zip(places, jnp.split(packed, ends), strict=True):
            found[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, found)


def placed(reduce: Blocks, data: Data) -> tuple[Blocks, Data]:
    """Rows where a reduce takes them, and the reduce: `Sharded` where the rows are spread over devices already.

    Args:
      reduce: `Blocks`, `Sharded`, or a user's own.
      data: validated `Data`.
    """
    if type(reduce) is Blocks:
        spread = devices.rows_of(data.x)
        if spread is None:
            return reduce, data
        reduce = Sharded(spread.mesh, spread.spec[0], size=reduce.size)
    if not isinstance(reduce, Sharded):
        return reduce, data
    sharding: Any = NamedSharding(devices.automatic(reduce.mesh), PartitionSpec(reduce.axis))
    reduce = dataclasses.replace(reduce, mesh=sharding.mesh)
    missing = -data.x.shape[0] % reduce.num_parts

    def put(values: Array, **filling: Any) -> Array:
        if missing:
            values = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)), **filling)
        if arrays.is_concrete(values):
            return jax.device_put(values, sharding)
        return jax.lax.with_sharding_constraint(values, sharding)

    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    if arrays.is_concrete(data.x, data.weights):
        with jax.ensure_compile_time_eval():
            return reduce, data._replace(x=put(data.x, mode="edge"), weights=put(data.weights))
    # Validation, which does not see where traced rows are, takes another way to the same point.
    origin = frame.exact_origin(data.x, data.weights, spread=True)
    return reduce, Data(put(data.x, mode="edge"), put(data.weights), origin, data.scale)


def spread(reduce: Blocks, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, each device with its own rows of every `Data` and `Rows`, where the reduce is `Sharded`.

    Args:
      reduce: the reduce of the fit.
      fn: a function whose value is the same on every device.
      args: pytrees.
    """
    if not isinstance(reduce, Sharded):
        return fn(*args)
    rows, every = PartitionSpec(reduce.axis), PartitionSpec()

    def specs(node: Any) -> Any:
        made: Any = type(node)
        if isinstance(node, Data):
            return made(rows, rows, every, None if node.scale is None else every)
        if isinstance(node, Rows):
            return made(rows, None if node.weights is None else rows)
        return every

    in_specs = jax.tree.map(specs, args, is_leaf=lambda node: isinstance(node, (Data, Rows)))
    return jax.shard_map(fn, mesh=reduce.mesh, in_specs=in_specs, out_specs=every, check_vma=False)(*args)


def agreed(reduce: Blocks, tree: Any) -> Any:
    """What the first device has computed, on all devices.

    Each of them has computed it from the same numbers. But a program may round otherwise on another device, and then
    choose another of two rows.

    Args:
      reduce: the reduce of the fit.
      tree: a pytree of arrays.
    """
    if not isinstance(reduce, Sharded) or reduce.num_parts == 1:
        return tree
    is_first = jax.lax.axis_index(reduce.axis) == 0
    return jax.lax.psum(jax.tree.map(lambda leaf: jnp.where(is_first, leaf, jnp.zeros_like(leaf)), tree), reduce.axis)


def over_starts(reduce: Blocks, fn: Callable[[Any], Any], starts: Any) -> Any:
    """`fn(starts)`, each group of devices with its share of the starts, where the reduce spreads them.

    Args:
      reduce: the reduce of the fit.
      fn: from starts with a leading axis R to values with one; the value of a start depends on that start alone.
      starts: a pytree with a leading axis R on every leaf.

    Returns:
      The values of all starts, in their order, on every device.
    """
    groups = devices.parts_of(reduce.mesh, reduce.starts) if isinstance(reduce, Sharded) else 1
    if not isinstance(reduce, Sharded) or groups == 1:
        return fn(starts)
    num = jax.tree.leaves(starts)[0].shape[0]
    share = -(-num // groups)
    # The last group repeats the last start where they do not divide.
    index = jnp.minimum(jax.lax.axis_index(reduce.starts) * share + jnp.arange(share), num - 1)
    values = fn(jax.tree.map(lambda leaf: leaf[index], starts))

    def gathered(leaf: Array) -> Array:
        return jax.lax.all_gather(leaf, reduce.starts, tiled=True)[:num]

    return jax.tree.map(gathered, values)
