"""Topics: what is collected is the same again and each text once, rows have length one, and their J is of cosines."""

import numpy as np
import pytest
from whole import assert_whole

from experiments import topics
from jaxmix import kmeans


@pytest.fixture(scope="module")
def three():
    texts = topics.corpus(("fft", "ndimage", "spatial"))
    return texts, topics.vectors(texts.texts)


def test_each_text_is_there_once_and_in_one_order(three):
    texts, _ = three
    assert len(set(texts.texts)) == len(texts.texts) == len(texts.labels) > 100
    again = topics.corpus(("fft", "ndimage", "spatial"))
    assert again.names == texts.names
    assert (np.diff(texts.labels) >= 0).all()


def test_rows_of_length_one_cost_what_their_cosines_say(three):
    texts, (ways, _, _) = three
    x = ways["TF-IDF, length one"].astype(float)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
    # |x - m|^2 summed over a cluster is N_k (1 - |m|^2): long means are those of rows of one direction.
    centers = np.stack([x[texts.labels == k].mean(axis=0) for k in range(3)])
    counts = np.bincount(texts.labels)
    cost = kmeans.objective(centers, x, texts.labels)
    np.testing.assert_allclose(cost, np.sum(counts * (1 - np.square(centers).sum(axis=1))), rtol=1e-6)


def test_top_words_are_those_of_the_cluster_alone(three):
    texts, (_, tfidf, words) = three
    rows = topics.words_of(texts.labels, texts, tfidf, words, 5)
    assert sum(row["documents"] for row in rows) == len(texts.texts)
    for row in rows:
        for word in row["top words"].split(", "):
            means = [tfidf[texts.labels == k, list(words).index(word)].mean() for k in range(3)]
            assert np.argmax(means) == row["cluster"]


@pytest.mark.slow
def test_length_one_finds_the_subpackages(tmp_path):
    rows = topics.main(topics.Options(smoke=True, output=tmp_path))
    assert_whole(tmp_path, "topics")
    assert (tmp_path / "topics.csv").exists()
    assert max(row["NMI"] for row in rows if row["vectors"].endswith("length one")) > 0.2
    assert all(abs(row["J / scikit-learn's"] - 1) < 1e-5 for row in rows)
