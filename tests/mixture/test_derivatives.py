"""A step of EM has derivatives in both modes, those of direct differences."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import blobs
from mixtures import exact

from jaxmix import as_data, gmm, solve


def test_a_step_of_em_has_the_derivatives_of_finite_differences_in_both_modes():
    x = blobs(60, 2, 3, spread=2.0)
    data = as_data(x)
    start = gmm.start.from_labels(np.arange(60) % 3, data, 3, problem=exact())
    objective = solve.make_objective(exact(), start, data)
    along = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape)), start)
    along = along._replace(log_weights=along.log_weights - along.log_weights.mean())

    @jax.jit
    def moved(t):
        params = jax.tree.map(lambda a, b: a + t * b, start, along)
        params = params._replace(log_weights=jax.nn.log_softmax(params.log_weights))
        return objective.em_step(params)[0].means

    numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jacfwd(moved)(0.0), numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(moved)(0.0), numeric, rtol=1e-6, atol=1e-8)
