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


def e_step(
    component: Any, prepared: Any, log_weights: Array, rows: Rows, assignment: Assignment
) -> tuple[Array, Array, Moments]:
    """`Component.e_step`, by products where little is lost for every component, else by direct differences."""
    return _chosen(_e_step_by_products, _e_step_by_differences, component, prepared, log_weights, rows, assignment)


def loss(component: Any, prepared: Any, log_weights: Array, rows: Rows, assignment: Assignment) -> Array:
    """`Component.loss`, as `e_step` takes it."""
    return _chosen(_loss_by_products, _loss_by_differences, component, prepared, log_weights, rows, assignment)


def _chosen(
    by_products: Callable,
    by_differences: Callable,
    component: Any,
    prepared: Any,
    log_weights: Array,
    rows: Rows,
    assignment: Assignment,
) -> Any:
    """The value of one of two functions: a choice by parameters alone, so that all blocks of rows are treated alike."""
    assert prepared.quadratic is not None
    expansion = quadratic.expand(prepared.quadratic, log_weights)
    operands = (component, prepared, expansion, log_weights, rows, assignment)
    operands = jax.tree.map(jnp.asarray, operands)
    return branches.choose(jnp.all(quadratic.is_accurate(expansion)), by_products, by_differences, *operands)


def _e_step_by_differences(
    component: Any, prepared: Any, expansion: Any, log_weights: Array, rows: Rows, assignment: Assignment
) -> tuple[Array, Array, Moments]:
    return Component.e_step(component, prepared, log_weights, rows, assignment)


def _loss_by_differences(
    component: Any, prepared: Any, expansion: Any, log_weights: Array, rows: Rows, assignment: Assignment
) -> Array:
    return Component.loss(component, prepared, log_weights, rows, assignment)


def _joint_by_products(
    expansion: quadratic.Expansion, log_weights: Array, rows: Rows
) -> tuple[Array, quadratic.Features]:
    """Log joint densities, (K, n), and the products of features that they were made of."""
    features = quadratic.features_of(expansion, rows.x)
    constants = log_weights - 0.5 * expansion.means.shape[1] * base.LOG_TWO_PI
    return quadratic.scores(expansion, features) + constants[:, None], features


def _e_step_by_products(
    component: Any,
    prepared: Any,
    expansion: quadratic.Expansion,
    log_weights: Array,
    rows: Rows,
    assignment: Assignment,
) -> tuple[Array, Array, Moments]:
    joint, features = _joint_by_products(expansion, log_weights, rows)
    evidence, shares = assignment(joint)
    counts, first, products = quadratic.moments(expansion, rows.weigh(shares), features)
    return -total(rows.weigh(evidence)), counts, Moments(first, component.covariance.second_moments(products))


def _loss_by_products(
    component: Any,
    prepared: Any,
    expansion: quadratic.Expansion,
    log_weights: Array,
    rows: Rows,
    assignment: Assignment,
) -> Array:
    joint, _ = _joint_by_products(expansion, log_weights, rows)
    return -total(rows.weigh(assignment(joint)[0]))
