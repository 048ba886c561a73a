"""Fits of hostile data end finite, or are refused with a sentence: a table of kinds, and what is drawn from it."""

from typing import Any

import pytest
from hypothesis import given, settings

from jaxmix import seeding
from tests import hostile

OTHER_SEEDINGS = (seeding.random_rows, seeding.maximin, seeding.kmeans_parallel)
QUICK = ("K-means", "Full")


def faults(model: str, dtype: Any, k: int, *, wide: bool = False, **options: Any) -> dict[str, str]:
    """The kinds whose fits are wrong, and how."""
    table = hostile.kinds(dtype, wide=wide)
    found = {name: hostile.fault(model, rows, k, **options) for name, rows in table.items()}
    return {name: fault for name, fault in found.items() if fault}


@pytest.mark.parametrize("dtype", hostile.DTYPES)
@pytest.mark.parametrize("model", QUICK)
def test_fits_of_hostile_data_end_finite_or_are_refused_with_a_sentence(model, dtype):
    # Of the most components, which shares the program of the property below.
    assert faults(model, dtype, hostile.MOST, num_active=3) == {}


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("k", [1, 3, hostile.MOST])
@pytest.mark.parametrize("dtype", hostile.DTYPES)
@pytest.mark.parametrize("model", hostile.MODELS)
def test_those_of_every_model_do(model, dtype, k, wide):
    assert faults(model, dtype, k, wide=wide) == {}


@pytest.mark.slow
@pytest.mark.parametrize("init", OTHER_SEEDINGS)
@pytest.mark.parametrize("dtype", hostile.DTYPES)
@pytest.mark.parametrize("model", hostile.MODELS)
def test_those_from_every_seeding_do(model, dtype, init):
    assert faults(model, dtype, 3, init=init) == {}


def ends_well(recipe: hostile.Recipe) -> None:
    assert hostile.fault(recipe.model, recipe.make(), hostile.MOST, num_active=recipe.k) == ""


@given(recipe=hostile.recipes(QUICK))
def test_fits_of_what_is_made_of_hostile_data_end_finite(recipe):
    ends_well(recipe)


@pytest.mark.slow
@settings(max_examples=3000)
@given(recipe=hostile.recipes(("K-means", "Full", "Tied", "Diagonal")))
def test_fits_of_all_that_is_made_of_hostile_data_end_finite(recipe):
    ends_well(recipe)
