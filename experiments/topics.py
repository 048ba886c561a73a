"""Which topics do short documents fall into, and what does it cost to let the length of a vector count?

The documents are the descriptions of SciPy's functions and classes, which it ships; the subpackage is the true label.
"""

import dataclasses
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from experiments import report
from jaxmix import kmeans, metrics, plot

SUBPACKAGES = ("fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "sparse")
SUBPACKAGES += ("spatial", "special", "stats")
FEWEST_WORDS = 40
"""Shorter descriptions say too little."""
SECTION = re.compile(
    r"\n\s*\*\*Array API Standard Support\*\*.*|\n\s*(Examples|References|See Also|Methods|Attributes)\s*\n\s*-{3,}.*",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """K-means, on rows of length one too, of the descriptions of SciPy's functions."""

    smoke: bool = False
    """Three subpackages, two K: to see that all works."""
    seed: int = 0
    """Seeds the starts."""
    restarts: int = 16
    """Starts of each fit."""
    ks: tuple[int, ...] = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32)
    """Numbers of clusters."""
    num_words: int = 8
    """Top words that are told of a cluster."""
    output: Path = Path("results/topics")
    """Where tables, report and figures go."""


class Corpus(NamedTuple):
    """Documents in the order of their names, and of each the subpackage that it is from."""

    names: list[str]
    texts: list[str]
    labels: np.ndarray


def corpus(subpackages: tuple[str, ...]) -> Corpus:
    """What the subpackages export, each description once, without examples and references."""
    found: dict[str, tuple[str, int]] = {}
    for label, subpackage in enumerate(subpackages):
        module = importlib.import_module(f"scipy.{subpackage}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            text = SECTION.sub("", inspect.getdoc(value) or "")
            # Numbers are made as instances of classes, whose own description they would give.
            own = inspect.isclass(value) or inspect.isroutine(value) or type(value).__name__ in ("ufunc", "MultiUFunc")
            if own and len(text.split()) >= FEWEST_WORDS and text not in (other for other, _ in found.values()):
                found[f"{subpackage}.{name}"] = text, label
    return Corpus(list(found), [text for text, _ in found.values()], np.array([label for _, label in found.values()]))


def vectors(texts: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The documents in three ways, of shape (N, D) each; TF-IDF of shape (N, V) and its words.

    Counts of words, TF-IDF, and TF-IDF with rows of length one. All in the directions of the largest singular values
    (latent semantic analysis), which keeps distances but for what is left out.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    # The name of its subpackage is in many a description; it would give the label away.
    hidden = "|".join(("scipy", *SUBPACKAGES))
    texts = [re.sub(rf"\b({hidden})\b", " ", text.lower()) for text in texts]
    settings: dict[str, Any] = {"stop_words": "english", "min_df": 3, "token_pattern": r"[a-z]{3,}"}
    settings["norm"] = None
    raw = TfidfVectorizer(**settings, use_idf=False)
    counts = raw.fit_transform(texts)
    weighted: Any = TfidfVectorizer(**settings, sublinear_tf=True).fit_transform(texts)
    lengths = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
    unit = weighted.multiply(1 / lengths[:, None]).tocsr()
    num = min(100, len(texts) // 2)

    def reduced(matrix: Any) -> np.ndarray:
        return TruncatedSVD(num, random_state=0).fit_transform(matrix).astype(np.float32)

    short = reduced(unit)
    ways = {
        "counts": reduced(counts),
        "TF-IDF": reduced(weighted),
        "TF-IDF, length one": short / np.linalg.norm(short, axis=1, keepdims=True),
    }
    return ways, unit.toarray(), raw.get_feature_names_out()


@functools.cache
def prepared(subpackages: tuple[str, ...]) -> tuple[Corpus, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The documents and their vectors, made once."""
    found = corpus(subpackages)
    return found, *vectors(found.texts)


class Clustered(NamedTuple):
    """A row of the table, and the labels."""

    row: dict[str, Any]
    labels: np.ndarray


def clustered(way: str, k: int, subpackages: tuple[str, ...], seed: int, restarts: int) -> Clustered:
    """K-means on the documents, beside scikit-learn from the same starts."""
    from sklearn.cluster import KMeans

    found, ways, _, _ = prepared(subpackages)
    x = ways[way]
    fits = kmeans.fit_restarts(jax.random.key(seed), x, k, restarts=restarts)
    best = int(np.argmin(fits.loss))
    centers = np.asarray(fits.params[best])
    labels = np.asarray(kmeans.predict(centers, x))
    start = x[np.random.default_rng(seed).choice(len(x), k, replace=False)]
    ours = kmeans.fit(jax.random.key(0), x, k, init=start)
    settings: dict[str, Any] = {"init": start, "n_init": 1, "tol": 0, "max_iter": 1000, "algorithm": "lloyd"}
    peer: Any = KMeans(k, **settings).fit(x)
    sizes = np.bincount(labels, minlength=k)
    row = {
        "vectors": way,
        "K": k,
        "NMI": float(metrics.normalized_mutual_information(found.labels, labels)),
        "ARI": float(metrics.adjusted_rand_index(found.labels, labels)),
        "largest cluster": float(sizes.max() / len(x)),
        "J / N": float(fits.loss[best]) / len(x),
        "starts at the best": float(np.mean(np.asarray(fits.loss) <= float(fits.loss[best]) * (1 + 1e-4))),
        "J / scikit-learn's": float(ours.loss) / float(peer.inertia_),
    }
    return Clustered(row, labels)


def words_of(labels: np.ndarray, texts: Corpus, tfidf: np.ndarray, words: np.ndarray, num: int) -> list[dict[str, Any]]:
    """For each cluster its size, the subpackages that most are from, and the words whose mean TF-IDF stands out."""
    rows = []
    for k in np.unique(labels):
        member = labels == k
        contrast = tfidf[member].mean(axis=0) - tfidf.mean(axis=0)
        shares = np.bincount(texts.labels[member], minlength=texts.labels.max() + 1) / member.sum()
        order = np.argsort(-shares)[:2]
        rows.append(
            {
                "cluster": int(k),
                "documents": int(member.sum()),
                "top words": ", ".join(words[np.argsort(-contrast, kind="stable")[:num]]),
                "from": ", ".join(f"{SUBPACKAGES[j]} {shares[j]:.0%}" for j in order if shares[j] > 0),
            }
        )
    return sorted(rows, key=lambda row: -row["documents"])


def draw(rows: list[dict[str, Any]], labels: np.ndarray, texts: Corpus) -> Figure:
    """NMI against K for each way, and where the documents of each subpackage went."""
    ways = list(dict.fromkeys(row["vectors"] for row in rows))
    with plt.rc_context(report.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.9), layout="constrained", width_ratios=(1.0, 1.35))
        left, right = axes
        for i, way in enumerate(ways):
            own = [row for row in rows if row["vectors"] == way]
            left.plot(
                [row["K"] for row in own],
                [row["NMI"] for row in own],
                color=plot.COLORS[i],
                marker=plot.MARKERS[i],
                markersize=4,
                label=way,
            )
        left.set(xlabel="clusters K", ylabel="NMI with the subpackages", ylim=(0, None))
        left.legend(loc="best")
        num = texts.labels.max() + 1
        table = np.zeros((num, labels.max() + 1))
        np.add.at(table, (texts.labels, labels), 1)
        table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
        order = np.argsort(table.argmax(axis=0), kind="stable")
        image = right.imshow(table[:, order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        right.set_yticks(range(num), SUBPACKAGES[:num])
        right.set_xticks(range(len(order)), order)
        right.set(xlabel=f"cluster ({ways[-1]}, K = {len(order)})")
        right.grid(False)
        figure.colorbar(image, ax=right, label="share of the subpackage")
    return figure


def reading(rows: list[dict[str, Any]], k: int) -> list[str]:
    """What the table says, in sentences that are computed from it."""
    lines = []
    for way in dict.fromkeys(row["vectors"] for row in rows):
        own = [row for row in rows if row["vectors"] == way]
        at = next(row for row in own if row["K"] == k)
        best = max(own, key=lambda row: row["NMI"])
        lines.append(
            f"- {way}: NMI {at['NMI']:.2f} and ARI {at['ARI']:.2f} at K = {k}, the number of subpackages, where the "
            f"largest cluster holds {at['largest cluster']:.0%} of the documents; NMI is highest at K = {best['K']}, "
            f"{best['NMI']:.2f}."
        )
    apart = max(abs(row["J / scikit-learn's"] - 1) for row in rows)
    lines.append(f"- From the same start J is that of scikit-learn to {apart:.1g}.")
    return lines


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the experiment, and returns the rows of its table."""
    console = Console(width=max(Console().width, 120))
    subpackages = SUBPACKAGES[:3] if options.smoke else SUBPACKAGES
    if options.smoke:
        options = dataclasses.replace(options, restarts=4, ks=(2, 3))
    num = len(subpackages)
    texts, ways, tfidf, words = prepared(subpackages)
    labels = np.zeros(0, int)
    rows: list[dict[str, Any]] = []
    tasks = [(way, k) for way in ways for k in sorted({*options.ks, num})]
    with report.Kept(options.output, console) as kept:
        for way, k in track(tasks, description="clusterings", console=console):
            found = kept(clustered, way, k, subpackages, options.seed, options.restarts)
            rows.append(found.row)
            # The last way, at the number of subpackages, is the one that is told of.
            labels = found.labels if k == num else labels
            report.write_csv(options.output / "table.csv", rows)
    topics = words_of(labels, texts, tfidf, words, options.num_words)
    report.write_csv(options.output / "topics.csv", topics)
    report.save_figure(draw(rows, labels, texts), options.output / "topics", dpi=120)
    plt.close("all")
    report.print_table("Topics", topics, console)
    sizes = ", ".join(f"{name} {(texts.labels == i).sum()}" for i, name in enumerate(subpackages))
    text = f"""# {(__doc__ or "").splitlines()[0]}

## Set-up

{len(texts.texts)} descriptions from SciPy ({sizes}), each once, without examples, references and the names of
subpackages; {len(words)} words that occur in three or more, English stop words apart. Three ways to make vectors of
them: counts of words, TF-IDF with logarithms of the counts, and that with rows of length one; each in
{ways["counts"].shape[1]} directions of the largest singular values. On rows of length one |x - m|^2 orders centers as
the cosine does, up to the centers' own lengths: close to spherical K-means (Dhillon and Modha 2001), whose centers
have length one too. NMI does not fall to zero for random labels, and grows with K; ARI does. Each is the best of
{options.restarts} starts by its own J; NMI and ARI are those with the subpackages, which K-means does not see.

## Result

![Topics](topics.png)

{report.markdown_table(rows)}

The clusters of rows of length one at K = {num}; top words are those whose mean TF-IDF exceeds that of all documents
most:

{report.markdown_table(topics)}

## Reading

{chr(10).join(reading(rows, num))}
"""
    report.write_text(options.output / "report.md", text)
    console.print(f"Figure, table.csv, topics.csv and report.md are in {options.output}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
