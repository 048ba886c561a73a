"""Gradient descent on a problem's loss, by any optax optimizer, full-batch or in mini-batches."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxmix import validation
from jaxmix.arrays import check_least, described
from jaxmix.contracts import check_call
from jaxmix.linalg import safe_divide
from jaxmix.pytree import choice, static
from jaxmix.solve.termination import expected_decrease
from jaxmix.solver import Objective, Progress, Solver, Status
from jaxmix.typing import Params

MAKES = "from a learning rate to an optax transformation"

GRADIENT_PASSES = 3.0
"""Passes over the data that one gradient over all rows counts for."""


class OptaxState(NamedTuple):
    """What a gradient solver carries.

    Attributes:
      free: the parameters in unconstrained coordinates, 0 where they are not finite; None for leaves that are not
        floating.
      anchor: the start in these coordinates: holds what is not finite, such as a component that is switched off, and
        what is not floating.
      optimizer: the optax state.
      last_free: `free` one full-batch step earlier.
      last_gradient: the gradient there.
      decrement: Array of shape (), the loss still to gain, as estimated at the last full-batch gradient.
      passes: Array of shape (), passes over the data so far.
      key: the key of the next epoch's order, or None.
    """

    free: Params
    anchor: Params
    optimizer: Any
    last_free: Params
    last_gradient: Params
    decrement: Array
    passes: Array
    key: Array | None


@choice
class Optax(Solver):
    r"""Gradient descent with any optax optimizer, in the problem's unconstrained coordinates.

    It descends on the loss per unit of weight, $\ell(\theta) / \sum_n w_n$, so that a learning rate means the
    same for every number of rows.

    Full batch, a step is one gradient. A small step is not convergence, since a small learning rate makes small
    steps anywhere. The rule is instead that the decrease still to gain, estimated as

    $$\tfrac12 \frac{\|g\|^2}{\kappa}, \qquad \kappa = \frac{s^T y}{s^T s},$$

    is below the tolerance, where $s$ and $y$ are the last changes of the parameters and of the gradient, so that
    $\kappa$ is the curvature along the path (Barzilai and Borwein 1988, equation 5); it does not depend on the
    learning rate. The estimate starts at the loss itself and may at most halve in a step, so that one quiet step ends
    nothing: a relative tolerance of 1e-6 takes 20. It is an estimate and not a bound: where the path is stiff it may
    end a fit early. At tolerance 0 only a gradient of exactly zero ends the fit.

    In mini-batches, a step is one epoch: the rows in a fresh random order, cut into batches of equal size. A last
    batch that would be short is filled up from the front of the order; rows of weight zero take places too. It ends
    when the steps do: with a constant learning rate it does not converge. The exact loss at each epoch's start costs a
    pass, and is counted.

    The loss may rise on the way, and that is not reported. Evaluations that an optimizer makes by itself (a line
    search) are not counted in `Fit.num_passes`.

    Attributes:
      optimizer: a function from a learning rate to an optax transformation, such as `optax.adam`, static. Give a
        function defined in a module: a new lambda at each call compiles anew.
      learning_rate: float or scalar Array, traced: vmap over it.
      batch_size: rows a mini-batch, static; None for the full batch.
      key: the PRNG key of the mini-batches' order; all starts of `run_many` see the same order.

    Raises:
      ValueError: when it runs, for an optimizer that is built already, a `learning_rate` that is negative or NaN, or a
        `batch_size` below 1 or without a `key`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = solve.run(kmeans.KMeans(), Optax(optax.sgd, 0.5), x[1:3], x, rtol=1e-6)
      >>> round(fit.loss.item(), 4), fit.status.item() == solve.Status.CONVERGED
      (1.0, True)
    """

    optimizer: Callable[..., optax.GradientTransformation] = static()
    # Without a default, Python would reject `Optax(optax.adam(0.05))` before `validate` could say what is wrong.
    learning_rate: ArrayLike | None = None
    batch_size: int | None = static(default=None)
    key: Array | None = None

    def validate(self) -> None:
        """Rejects an optimizer that is built already, a learning rate that is not one, and batches without a key."""
        if isinstance(self.optimizer, tuple) or not callable(self.optimizer):
            built = isinstance(self.optimizer, tuple)
            raise ValueError(
                f"`optimizer` must be a function {MAKES}, got "
                f"{'one that is built already' if built else described(self.optimizer)}. For optax.adam(0.05) write "
                "Optax(optax.adam, learning_rate=0.05); for a chain, Optax(make, learning_rate=0.05) with def "
                "make(rate): return optax.chain(...)."
            )
        check_call(self.optimizer, "optimizer", MAKES, "rate")
        if self.learning_rate is None:
            raise ValueError("`learning_rate` is missing. Write Optax(optax.adam, learning_rate=0.05).")
        if callable(self.learning_rate):
            raise ValueError(
                f"`learning_rate` must be a number, got {described(self.learning_rate)}. For a schedule, write "
                "Optax(make, learning_rate=1.0) with def make(rate): return optax.adam(lambda step: rate * "
                "schedule(step))."
            )
        check_least(self.learning_rate, "learning_rate", 0)
        if self.batch_size is not None:
            validation.check_int(self.batch_size, "batch_size", least=1)
            if self.key is None:
                raise ValueError("`batch_size` needs a `key` for the order of the rows: key=jax.random.key(0).")
            validation.check_key(self.key)

    def init(self, objective: Objective, params: Params) -> OptaxState:
        """The start in unconstrained coordinates, and a fresh optimizer."""
        anchor = objective.unconstrain(params)
        free = objective.free(anchor)
        zero = jnp.zeros((), objective.dtype)
        return OptaxState(
            free=free,
            anchor=anchor,
            optimizer=self._optimizer(objective).init(free),
            last_free=free,
            last_gradient=jax.tree.map(jnp.zeros_like, free),
            decrement=zero + jnp.inf,
            passes=zero,
            key=None if self.batch_size is None else self.key,
        )

    def step(self, objective: Objective, state: OptaxState) -> tuple[OptaxState, Array]:
        """One full-batch update, or one epoch of mini-batches."""
        if self.batch_size is None:
            return self._full(objective, state)
        return self._epoch(objective, state, self.batch_size)

    def params(self, objective: Objective, state: OptaxState) -> Params:
        """The parameters, constrained again."""
        return objective.params(state.free, state.anchor)

    def status(self, state: OptaxState, progress: Progress) -> Array:
        """Converged when the decrease still to gain is below the tolerance, or the gradient is zero."""
        done = (state.decrement < progress.tolerance) | (state.decrement == 0)
        return jnp.where(done, Status.CONVERGED, Status.RUNNING)

    def passes(self, state: OptaxState, num_steps: Array) -> Array:
        """Three for each gradient over all rows, and one for each epoch's exact loss."""
        return state.passes

    def _optimizer(self, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return lenient(lambda: self.optimizer(jnp.asarray(self.learning_rate, objective.dtype)))

    def _full(self, objective: Objective, state: OptaxState) -> tuple[OptaxState, Array]:
        value, gradient = objective.mean_value_and_grad(state.free, state.anchor)
        free, optimizer = _update(self._optimizer(objective), objective, state, value, gradient)
        step = jax.tree.map(jnp.subtract, state.free, state.last_free)
        change = jax.tree.map(jnp.subtract, gradient, state.last_gradient)
        curvature = safe_divide(_inner(step, change), _inner(step, step))
        square = _inner(gradient, gradient)
        is_convex = curvature > 0
        per_total = 0.5 * square / jnp.where(is_convex, curvature, 1)
        gain = jnp.where(is_convex, per_total * objective.total, state.decrement)
        first_step = _inner(gradient, jax.tree.map(jnp.subtract, free, state.free)) * objective.total
        decrement = expected_decrease(state.decrement, gain, value * objective.total, first_step)
        after = OptaxState(
            free=free,
            anchor=state.anchor,
            optimizer=optimizer,
            last_free=state.free,
            last_gradient=gradient,
            decrement=jnp.where(square == 0, 0, decrement).astype(state.decrement.dtype),
            passes=state.passes + GRADIENT_PASSES,
            key=state.key,
        )
        return after, value * objective.total

    def _epoch(self, objective: Objective, state: OptaxState, batch_size: int) -> tuple[OptaxState, Array]:
        assert state.key is not None  # `validate` rejects a batch size without a key
        order_key, next_key = jax.random.split(state.key)
        batches = objective.epoch(order_key, batch_size)

        def body(state: OptaxState, indices: Array) -> tuple[OptaxState, None]:
            batch = objective.take(indices)
            value, gradient = batch.mean_value_and_grad(state.free, state.anchor)
            free, optimizer = _update(self._optimizer(objective), batch, state, value, gradient)
            return state._replace(free=free, optimizer=optimizer), None

        loss = objective.value(self.params(objective, state))
        after, _ = jax.lax.scan(body, state, batches)
        passes = state.passes + GRADIENT_PASSES * batches.size / objective.num_rows + 1
        return after._replace(passes=passes, key=next_key), loss


def lenient(make: Callable[[], optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An optimizer that runs under `jax_numpy_dtype_promotion="strict"`: optax's own sums mix integers and floats."""
    standard = partial(jax.numpy_dtype_promotion, "standard")
    with standard():
        made: Any = make()
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise ValueError(f"`optimizer` must be a function {MAKES}, but it returned {described(made)}.")
        optimizer = optax.with_extra_args_support(made)

    def init(params: Params) -> Any:
        with standard():
            return optimizer.init(params)

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        with standard():
            return optimizer.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _update(
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    state: OptaxState,
    value: Array,
    gradient: Params,
) -> tuple[Params, Any]:
    updates, optimizer_state = optimizer.update(
        gradient,
        state.optimizer,
        state.free,
        value=value,
        grad=gradient,
        value_fn=lambda free: objective.mean_value(free, state.anchor),
    )
    return optax.apply_updates(state.free, updates), optimizer_state


def _inner(a: Params, b: Params) -> Array:
    return jnp.asarray(optax.tree.vdot(a, b))
