"""Gaussian components by products of features: what is fast for many rows, where it loses little."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import branches
from jaxmix.data import Rows
from jaxmix.kernels import quadratic
from jaxmix.mixture.assignment import Assignment
from jaxmix.mixture.component import Component, total
from jaxmix.mixture.components.gaussian import base
from jaxmix.mixture.components.gaussian.base import Moments


def log_joint(component: Any, prepared: Any, log_weights: Array, rows: Rows) -> Array:
    """`Component.log_joint`, by products where little is lost for every component, else by direct differences."""
    return _chosen(_joint_by_products, Component.log_joint, component, prepared, log_weights, rows)


def e_step(
    component: Any, prepared: Any, log_weights: Array, rows: Rows, assignment: Assignment
) -> tuple[Array, Array, Moments]:
    """`Component.e_step`, as `log_joint` chooses."""
    return _chosen(_e_step_by_products, Component.e_step, component, prepared, log_weights, rows, assignment)


def _chosen(
    by_products: Callable,
    by_differences: Callable,
    component: Any,
    prepared: Any,
    log_weights: Array,
    rows: Rows,
    *others: Any,
) -> Any:
    """The value of one of two functions: a choice by parameters alone, so that all blocks of rows are treated alike."""
    assert prepared.quadratic is not None
    expansion = quadratic.expand(prepared.quadratic, log_weights)

    def products(component: Any, prepared: Any, expansion: Any, *operands: Any) -> Any:
        return by_products(component, expansion, *operands)

    def differences(component: Any, prepared: Any, expansion: Any, *operands: Any) -> Any:
        return by_differences(component, prepared._replace(quadratic=None), *operands)

    operands = jax.tree.map(jnp.asarray, (component, prepared, expansion, log_weights, rows, *others))
    return branches.choose(jnp.all(quadratic.is_accurate(expansion)), products, differences, *operands)


def _features_and_joint(
    expansion: quadratic.Expansion, log_weights: Array, rows: Rows
) -> tuple[quadratic.Features, Array]:
    """The products of features of rows, and the log joint densities, (K, n), that are made of them."""
    features = quadratic.features_of(expansion, rows.x)
    constants = log_weights - 0.5 * expansion.means.shape[1] * base.LOG_TWO_PI
    return features, quadratic.scores(expansion, features) + constants[:, None]


def _joint_by_products(component: Any, expansion: quadratic.Expansion, log_weights: Array, rows: Rows) -> Array:
    return _features_and_joint(expansion, log_weights, rows)[1]


def _e_step_by_products(
    component: Any, expansion: quadratic.Expansion, log_weights: Array, rows: Rows, assignment: Assignment
) -> tuple[Array, Array, Moments]:
    features, joint = _features_and_joint(expansion, log_weights, rows)
    evidence, shares = assignment(joint)
    counts, first, products = quadratic.moments(expansion, rows.weigh(shares), features)
    return -total(rows.weigh(evidence)), counts, Moments(first, component.covariance.second_moments(products))
