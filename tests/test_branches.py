import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmix import branches

X = jnp.arange(6.0).reshape(3, 2)


def counted(calls, name, function):
    def run(x):
        jax.debug.callback(lambda: calls.append(name))
        return function(x)

    return run


def chosen_of(calls):
    double, negate = counted(calls, "double", lambda x: 2 * x), counted(calls, "negate", lambda x: -x)
    return lambda chosen, x: branches.choose(chosen, double, negate, x)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([True] * 3, {"double"}), ([False] * 3, {"negate"}), ([True, False, True], {"double", "negate"})],
)
def test_a_batch_evaluates_only_what_some_member_needs(flags, expected):
    calls = []
    flags = jnp.array(flags)
    found = jax.jit(jax.vmap(chosen_of(calls)))(flags, X)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, jnp.where(flags[:, None], 2 * X, -X))
    assert set(calls) == expected


@pytest.mark.parametrize("flag", [True, False])
def test_one_choice_for_a_whole_batch_stays_one(flag):
    calls = []
    found = jax.jit(jax.vmap(chosen_of(calls), in_axes=(None, 0)))(jnp.array(flag), X)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, 2 * X if flag else -X)
    assert set(calls) == {"double" if flag else "negate"}


def test_a_batch_within_a_batch_and_a_loop():
    def total(x, flags):
        return jax.lax.scan(lambda s, f: (s + branches.when(f, jnp.cos, jnp.zeros(2), x), None), x, flags)[0]

    flags = jnp.array([[True, False], [False, False], [True, True]])
    found = jax.vmap(jax.vmap(total, in_axes=(0, None)), in_axes=(None, 0))(X, flags)
    expected = X[None] + flags.sum(axis=1)[:, None, None] * jnp.cos(X)[None]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_forward_derivatives_are_those_of_the_chosen_function():
    def value(x):
        return branches.choose(x > 0, jnp.sin, jnp.cos, x)

    for x in (0.5, -0.5):
        np.testing.assert_allclose(jax.jvp(value, (x,), (1.0,))[1], np.cos(x) if x > 0 else -np.sin(x), rtol=1e-14)
