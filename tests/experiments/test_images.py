"""Code books and parts of images: the arithmetic of both, and whole runs in small."""

import itertools
import math

import numpy as np
import pytest
from whole import assert_whole

from experiments import compression, segmentation

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("side", [1, 2, 8])
def test_joining_undoes_cutting_but_for_the_edges(side):
    image = RNG.uniform(size=(17, 26, 3)).astype(np.float32)
    vectors = compression.cut(image, side)
    assert vectors.shape == (17 // side, 26 // side, 3 * side**2)
    np.testing.assert_array_equal(compression.joined(vectors, side), image[: 17 // side * side, : 26 // side * side])


def test_entropy_is_that_of_the_shares():
    assert compression.entropy(np.repeat(np.arange(8), 5)) == pytest.approx(3)
    assert compression.entropy(np.array([3, 3, 3])) == 0
    assert compression.entropy(np.array([0, 1, 1, 1])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_a_tenth_of_the_error_is_ten_decibels():
    assert compression.signal_to_noise(1.0) == 0
    assert compression.signal_to_noise(1e-3) == pytest.approx(30)


@pytest.mark.slow
def test_code_books_keep_to_rate_and_distortion(tmp_path):
    rows = compression.main(compression.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "colors", "patches", "rates")
    for kind in compression.SIZES:
        own = [row for row in rows if row["code"] == kind]
        assert all(a["PSNR, dB"] < b["PSNR, dB"] for a, b in itertools.pairwise(own))
        for row in own:
            assert 0 < row["entropy bits"] <= row["index bits"] == math.log2(row["K"]) / compression.SIZES[kind] ** 2


def test_pieces_and_cuts_of_a_label_map():
    stripes = np.repeat([[0, 1, 0]], 4, axis=0)
    assert segmentation.pieces(stripes) == 3
    # 4 x 2 pairs beside each other are cut, the 3 x 3 below each other are not.
    assert segmentation.cut_share(stripes) == pytest.approx(8 / 17)
    assert segmentation.cut_share(np.zeros((3, 3), int)) == 0


def test_position_has_the_spread_that_it_is_given():
    image = RNG.uniform(size=(20, 31, 3))
    rows = segmentation.features(image, 0.5)
    np.testing.assert_allclose(rows[:, :3].std(axis=0), 1, rtol=1e-5)
    assert np.square(rows[:, 3:]).mean() == pytest.approx(0.25, rel=1e-5)
    assert segmentation.features(image, 0).shape == (620, 3)


@pytest.mark.slow
def test_parts_with_position_hang_together(tmp_path):
    rows = segmentation.main(segmentation.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "parts")
    cells = {(row["image"], row["model"], row["position"]): row for row in rows}
    for (image, model, position), row in cells.items():
        assert 0 < row["color explained"] < 1
        if position:
            assert row["pieces"] < cells[image, model, 0]["pieces"]
            assert row["neighbors cut"] < cells[image, model, 0]["neighbors cut"]
    # Of all label maps by color alone, that of K-means explains the most of the colors.
    for image in {row["image"] for row in rows}:
        assert cells[image, "K-means", 0]["color explained"] >= cells[image, "mixture", 0]["color explained"]
