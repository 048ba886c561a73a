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
from jaxmix.merging import added, in_pairs, merge
from jaxmix.pytree import choice, static
from jaxmix.reduction import Blocks, Footprint, flat
from jaxmix.typing import Stats

LAST_PARTS = 4
"""So many sums, or one of each device, are left for the last loop of `Sharded(deterministic=True)`."""

SLOTS = 64
"""The shares of all rows whose sums are added in one order, on any number of devices that divides this one."""


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
      deterministic: whether the same rows give the same bits on 1, 2, 4, 8, 16, 32 and 64 devices of one kind, static.
        All rows are then cut into 64 shares, of which a device has some; sums within a share are taken by blocks, and
        those of the shares added in a fixed order. A pass gathers what each device has, so that the bytes it moves grow
        with the devices, and statistics are held for each share of a device at once.

    Raises:
      ValueError: when it is used, for axes that the mesh does not have, or one that is named twice; for `deterministic`
        on another number of devices.

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
    deterministic: bool = static(default=False, kw_only=True)

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
        if self.deterministic and SLOTS % self.num_parts:
            raise ValueError(
                f"`deterministic` needs rows spread over 1, 2, 4, 8, 16, 32 or {SLOTS} devices, got {self.num_parts}."
            )

    @property
    def num_parts(self) -> int:
        """Over how many devices the rows are spread."""
        return devices.parts_of(self.mesh, self.axis)

    @property
    def num_slots(self) -> int:
        """In how many shares a device sums its rows, each by itself."""
        return SLOTS // self.num_parts if self.deterministic else 1

    @property
    def own(self) -> Blocks:
        """The sums over the rows of one device, or of rows that every device has."""
        return Blocks(self.size)

    def num_counted(self, x: Array) -> int:
        """The rows of a device; of all devices where their number must not matter."""
        return super().num_counted(x) * (self.num_parts if self.deterministic else 1)

    def own_key(self, key: Array) -> Array:
        """A key for each device, from one that all have."""
        return key if self.num_parts == 1 else jax.random.fold_in(key, jax.lax.axis_index(self.axis))

    def cut(self, x: Array, weights: Array | None, footprint: Footprint, num_rows: int | None = None) -> Rows:
        """The rows of one device as blocks; of a share of them after another, if `deterministic`."""
        if not self.deterministic:
            return super().cut(x, weights, footprint, num_rows)
        num_rows = (x.shape[0] if num_rows is None else num_rows) // self.num_slots
        size = min(num_rows, self.rows_per_block(num_rows, x.shape[1], footprint, x.dtype.itemsize))
        missing = -num_rows % size

        def fold(values: Array, **filling: Any) -> Array:
            shares = values[: num_rows * self.num_slots].reshape(self.num_slots, num_rows, *values.shape[1:])
            filled = jnp.pad(shares, ((0, 0), (0, missing), *((0, 0),) * (values.ndim - 1)), **filling)
            return filled.reshape(-1, size, *values.shape[1:])

        weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
        return Rows(fold(x, mode="edge"), fold(weights))

    def __call__(self, fn: Callable[[Any, Rows], Stats], prepared: Any, rows: Rows) -> Stats:
        """The merged values over the rows of all devices; called on each device with its own rows."""
        if not self.deterministic:
            return self.total(super().__call__(fn, prepared, rows))
        num_blocks = rows.x.shape[0] // self.num_slots
        # Differentiated in reverse, a block is computed again rather than stored.
        fn = jax.checkpoint(fn)

        def of_slot(slot: Array) -> Stats:
            def of_block(index: Array) -> Stats:
                return fn(prepared, jax.tree.map(lambda leaf: leaf[slot * num_blocks + index], rows))

            if num_blocks == 1:
                return of_block(jnp.int32(0))
            shapes = jax.eval_shape(of_block, jnp.int32(0))
            return added(of_block, num_blocks, shapes, jnp.zeros_like(rows.x, shape=()))

        return self._total_of_slots(jax.lax.map(of_slot, jnp.arange(self.num_slots, dtype=jnp.int32)))

    def sums(self, fn: Callable[..., Stats], *values: Array) -> Stats:
        """`fn(*values)` of the rows of one device, uncut, as the statistics of all."""
        if not self.deterministic:
            return super().sums(fn, *values)
        shares = [each.reshape(self.num_slots, -1, *each.shape[1:]) for each in values]
        return self._total_of_slots(jax.lax.map(lambda share: fn(*share), shares))

    def epoch(self, key: Array, num_rows: int, batch_size: int) -> Array:
        """The rows of one epoch's batches: each device draws from its own, or each share does."""
        if not self.deterministic:
            return super().epoch(key, num_rows, batch_size)
        num_rows //= self.num_slots
        size = min(-(-batch_size // SLOTS), num_rows)
        num_batches = -(-num_rows // size)
        slots = jnp.arange(self.num_slots, dtype=jnp.int32)
        device = 0 if self.num_parts == 1 else jax.lax.axis_index(self.axis)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, device * self.num_slots + slots)
        order = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(keys) + num_rows * slots[:, None]
        drawn = order[:, jnp.arange(num_batches * size) % num_rows].reshape(-1, num_batches, size)
        return jnp.swapaxes(drawn, 0, 1).reshape(num_batches, -1)

    def take(self, rows: Rows, indices: Array, num_rows: int) -> tuple[Rows, Blocks]:
        """Some rows of each device, as many of each of its shares."""
        if not self.deterministic:
            return super().take(rows, indices, num_rows)
        x, weights = flat(rows)
        assert weights is not None  # `cut` has made them
        per_slot = num_rows // self.num_slots
        places = (indices // per_slot * (x.shape[0] // self.num_slots) + indices % per_slot).reshape(self.num_slots, -1)
        return Rows(x[places], weights[places] * jnp.asarray(num_rows / indices.shape[0], x.dtype)), self

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

    def _total_of_slots(self, stats: Stats) -> Stats:
        """The statistics of all shares of all devices, with a leading axis for those of one device."""
        # A device leaves so many that the last sums are a loop of two turns or more, on any number of devices: what
        # follows a loop is compiled apart from it, and so is rounded alike.
        num_left = max(1, LAST_PARTS // self.num_parts)
        for _ in range((self.num_slots // num_left).bit_length() - 1):
            stats = in_pairs(stats)
        if self.num_parts > 1:
            stats = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), _all_gathered(stats, self.axis))

        def fold(_: int, stats: Stats) -> Stats:
            return jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), in_pairs(stats))

        num_turns = (num_left * self.num_parts).bit_length() - 1
        return jax.tree.map(lambda leaf: leaf[0], jax.lax.fori_loop(0, num_turns, fold, stats))


def _all_reduced(tree: Any, axes: Any) -> Any:
    """The sum of a pytree over devices: one all-reduce for each dtype."""
    return _packed(tree, lambda numbers: jax.lax.psum(numbers, axes))


def _all_gathered(tree: Any, axes: Any) -> Any:
    """What all devices have, with a leading axis for them: one all-gather for each dtype."""
    return _packed(tree, lambda numbers: jax.lax.all_gather(numbers, axes))


def _packed(tree: Any, collective: Callable[[Array], Array]) -> Any:
    """A collective of all leaves of one dtype as one vector; it may put axes before that of the vector."""
    leaves, structure = jax.tree.flatten(tree)
    found: list[Any] = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        packed = collective(jnp.concatenate([leaves[i].ravel() for i in places]))
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        for i, part in zip(places, jnp.split(packed, ends, axis=-1), strict=True):
            found[i] = part.reshape(*part.shape[:-1], *leaves[i].shape)
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
    missing = -data.x.shape[0] % (reduce.num_parts * reduce.num_slots)

    def put(values: Array, **filling: Any) -> Array:
        if missing:
            values = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)), **filling)
        if arrays.is_concrete(values):
            return jax.device_put(values, sharding)
        return jax.lax.with_sharding_constraint(values, sharding)

    def moved() -> Data:
        # Validation takes another way to the origin of rows that are together, or traced: it does not see where.
        again = reduce.deterministic or not arrays.is_concrete(data.x, data.weights)
        origin = frame.exact_origin(data.x, data.weights, spread=True) if again else data.origin
        return Data(put(data.x, mode="edge"), put(data.weights), origin, data.scale)

    if not arrays.is_concrete(data.x, data.weights):
        return reduce, moved()
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval():
        return reduce, moved()


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
