"""Fits of hostile data end finite, or are refused with a sentence: a table of kinds, and what hypothesis makes of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from jaxmix import seeding
from tests import hostile

OTHER_SEEDINGS = (seeding.random_rows, seeding.maximin, seeding.kmeans_parallel)
QUICK = ("K-means", "Full")
MODELS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in hostile.MODELS]


def faults(model: str, dtype: Any, k: int, **options: Any) -> dict[str, str]:
    """The kinds whose fits are wrong, and how."""
    found = {name: hostile.fault(model, rows, k, **options) for name, rows in hostile.kinds(dtype).items()}
    return {name: fault for name, fault in found.items() if fault}


@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", hostile.DTYPES)
@pytest.mark.parametrize("model", MODELS)
def test_fits_of_hostile_data_end_finite_or_are_refused_with_a_sentence(model, dtype, k):
    assert faults(model, dtype, k) == {}


@pytest.mark.slow
@pytest.mark.parametrize("init", OTHER_SEEDINGS)
@pytest.mark.parametrize("dtype", hostile.DTYPES)
@pytest.mark.parametrize("model", hostile.MODELS)
def test_they_do_from_every_seeding(model, dtype, init):
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
