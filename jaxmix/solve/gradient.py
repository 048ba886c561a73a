"""Gradient descent on a problem's loss, by any optax optimiser, full-batch or in mini-batches."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxmix import door
from jaxmix.linalg import safe_divide
from jaxmix.solve import coordinates, minibatch
from jaxmix.solve.decrement import guarded
from jaxmix.solve.loop import objective
from jaxmix.types import Data, Params, Problem, Progress, Status

GRADIENT_PASSES = 3.0


class GradientState(NamedTuple):
    """What a gradient solver carries.

    Attributes:
      free: the parameters in unconstrained coordinates, 0 where they are not finite.
      anchor: the start in these coordinates: holds what is not finite, such as a component that is switched off.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gradient:
    r"""Gradient descent with any optax optimiser, in the problem's unconstrained coordinates.

    It descends on the loss per unit of weight, $\ell(\theta) / \sum_n w_n$, so that a learning rate means the
    same for every number of rows.

    Full batch, a step is one gradient. A small step is not convergence, since a small learning rate makes small
    steps anywhere. The rule is instead that the decrease still to gain, estimated as

    $$\tfrac12 \frac{\|g\|^2}{\kappa}, \qquad \kappa = \frac{s^T y}{s^T s},$$

    is below the tolerance, where $s$ and $y$ are the last changes of the parameters and of the gradient, so that
    $\kappa$ is the curvature along the path (Barzilai and Borwein 1988, equation 5); it does not depend on the
    learning rate. The estimate starts at the loss itself and may at most halve in a step, so that one quiet step ends
    nothing: a relative tolerance of 1e-6 takes 20. It is an estimate and no bound: where the path is stiff it may
    speak early. At tolerance 0 only a gradient of exactly zero ends the fit.

    In mini-batches, a step is one epoch: the rows in a fresh random order, cut into batches of equal size. A last
    batch that would be short is filled up from the front of the order; rows of weight zero take places too. It ends
    when the steps do: with a constant learning rate it does not converge. The exact loss at each epoch's start costs a
    pass, and is counted.

    The loss may rise on the way, and that is not reported. Evaluations that an optimiser makes by itself (a line
    search) are not counted in `Fit.num_passes`.

    Attributes:
      learning_rate: float or scalar Array, traced: vmap over it.
      optimizer: from a learning rate to an optax transformation, static: give a module-level function, since a
        new lambda at each call compiles anew.
      batch_size: rows a mini-batch, static; None for the full batch.
      key: the PRNG key of the mini-batches' order; all starts of `run_many` see the same order.

    Raises:
      ValueError: when it runs, for a `learning_rate` that is negative or NaN, or a `batch_size` below 1 or without a
        `key`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> fit = solve.run(kmeans.KMeans(), Gradient(0.5, optax.sgd), x[1:3], x, rtol=1e-6)
      >>> round(fit.loss.item(), 4), fit.status.item() == solve.Status.CONVERGED
      (1.0, True)
    """

    learning_rate: ArrayLike
    optimizer: Callable[..., optax.GradientTransformation] = dataclasses.field(
        default=optax.adam, metadata={"static": True}
    )
    batch_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    key: Array | None = None

    def check(self) -> None:
        """Refuses a learning rate that is none."""
        door.check_least(self.learning_rate, "learning_rate", 0)

    def init(self, problem: Problem, params: Params, data: Data) -> GradientState:
        """The start in unconstrained coordinates, and a fresh optimiser."""
        if self.batch_size is not None:
            minibatch.check(self.batch_size, self.key)
        anchor = problem.unconstrain(params)
        free = coordinates.finite(anchor)
        zero = jnp.zeros((), data.x.dtype)
        return GradientState(
            free=free,
            anchor=anchor,
            optimizer=self._optimizer(data).init(free),
            last_free=free,
            last_gradient=jax.tree.map(jnp.zeros_like, free),
            decrement=zero + jnp.inf,
            passes=zero,
            key=None if self.batch_size is None else self.key,
        )

    def step(self, problem: Problem, state: GradientState, data: Data) -> tuple[GradientState, Array]:
        """One full-batch update, or one epoch of mini-batches."""
        if self.batch_size is None:
            return self._full(problem, state, data)
        return self._epoch(problem, state, data, self.batch_size)

    def params(self, problem: Problem, state: GradientState) -> Params:
        """The parameters, constrained again."""
        return _constrain(problem, state.free, state.anchor)

    def status(self, state: GradientState, progress: Progress) -> Array:
        """Converged when the decrease still to gain is below the tolerance, or the gradient is zero."""
        done = (state.decrement < progress.tolerance) | (state.decrement == 0)
        return jnp.where(done, Status.CONVERGED, Status.RUNNING)

    def num_passes(self, state: GradientState, num_steps: Array) -> Array:
        """Three for each gradient over all rows, and one for each epoch's exact loss."""
        return state.passes

    def _optimizer(self, data: Data) -> optax.GradientTransformationExtraArgs:
        return lenient(lambda: self.optimizer(jnp.asarray(self.learning_rate, data.x.dtype)))

    def _full(self, problem: Problem, state: GradientState, data: Data) -> tuple[GradientState, Array]:
        total_weight = jnp.sum(data.weights)

        def mean_loss(free: Params) -> Array:
            return objective(problem, _constrain(problem, free, state.anchor), data) / total_weight

        value, gradient = jax.value_and_grad(mean_loss)(state.free)
        free, optimizer = _update(self._optimizer(data), state, value, gradient, mean_loss)
        step = jax.tree.map(jnp.subtract, state.free, state.last_free)
        change = jax.tree.map(jnp.subtract, gradient, state.last_gradient)
        curvature = safe_divide(_inner(step, change), _inner(step, step))
        square = _inner(gradient, gradient)
        bent = curvature > 0
        gain = jnp.where(bent, 0.5 * square / jnp.where(bent, curvature, 1) * total_weight, state.decrement)
        promised = _inner(gradient, jax.tree.map(jnp.subtract, free, state.free)) * total_weight
        decrement = guarded(state.decrement, gain, value * total_weight, promised)
        after = GradientState(
            free=free,
            anchor=state.anchor,
            optimizer=optimizer,
            last_free=state.free,
            last_gradient=gradient,
            decrement=jnp.where(square == 0, 0, decrement).astype(state.decrement.dtype),
            passes=state.passes + GRADIENT_PASSES,
            key=state.key,
        )
        return after, value * total_weight

    def _epoch(
        self, problem: Problem, state: GradientState, data: Data, batch_size: int
    ) -> tuple[GradientState, Array]:
        total_weight = jnp.sum(data.weights)
        assert state.key is not None  # `init` refuses a batch size without a key
        order_key, next_key = jax.random.split(state.key)
        batches = minibatch.epoch(order_key, data.x.shape[0], batch_size)

        def body(state: GradientState, rows: Array) -> tuple[GradientState, None]:
            batch = minibatch.take(data, rows)

            def mean_loss(free: Params) -> Array:
                return objective(problem, _constrain(problem, free, state.anchor), batch) / total_weight

            value, gradient = jax.value_and_grad(mean_loss)(state.free)
            free, optimizer = _update(self._optimizer(data), state, value, gradient, mean_loss)
            return state._replace(free=free, optimizer=optimizer), None

        loss = objective(problem, self.params(problem, state), data)
        after, _ = jax.lax.scan(body, state, batches)
        passes = state.passes + GRADIENT_PASSES * batches.size / data.x.shape[0] + 1
        return after._replace(passes=passes, key=next_key), loss


def lenient(make: Callable[[], optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An optimizer that runs under `jax_numpy_dtype_promotion="strict"`: optax's own sums mix integers and floats."""
    standard = partial(jax.numpy_dtype_promotion, "standard")
    with standard():
        optimizer = optax.with_extra_args_support(make())

    def init(params: Params) -> Any:
        with standard():
            return optimizer.init(params)

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        with standard():
            return optimizer.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _constrain(problem: Problem, free: Params, anchor: Params) -> Params:
    return problem.constrain(coordinates.pin(free, anchor))


def _update(
    optimizer: optax.GradientTransformationExtraArgs,
    state: GradientState,
    value: Array,
    gradient: Params,
    value_fn: Callable[[Params], Array],
) -> tuple[Params, Any]:
    updates, optimizer_state = optimizer.update(
        gradient, state.optimizer, state.free, value=value, grad=gradient, value_fn=value_fn
    )
    return optax.apply_updates(state.free, updates), optimizer_state


def _inner(a: Params, b: Params) -> Array:
    return jnp.asarray(optax.tree.vdot(a, b))
