"""README and docs: their code is run, page by page, and their commands, links and names exist."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

API = (ROOT / "docs" / "api.md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def run(page: Path) -> None:
    """Runs the Python on a page from top to bottom; a block prints the text under it, where there is one."""
    namespace: dict[str, object] = {}
    checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for block, shown in re.findall(
        r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", page.read_text(), flags=re.MULTILINE | re.DOTALL
    ):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(page), "exec"), namespace)
        if shown:
            example = doctest.Example(block, shown)
            difference = checker.output_difference(example, printed.getvalue(), flags)
            assert checker.check_output(shown, printed.getvalue(), flags), difference


LONG = ("index.md", "extend.md", "coming_from.md", "collapse.md")


@pytest.mark.parametrize(
    "page",
    [
        # The first page of the site is a part of README.md.
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in LONG else [])
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_code_on_a_page_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # As a user starts: float32, and JAX's default rank promotion.
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        run(page)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1 / 0\n```\n", ZeroDivisionError),
        ("```python\nx = 2\n```\nand\n```python\nassert x == 3\n```\n", AssertionError),
        ("```python\nprint(2)\n```\n\n```text\n3\n```\n", AssertionError),
        ("```python\npass\n```\n\n```text\n3\n```\n", AssertionError),
    ],
)
def test_a_page_that_is_wrong_fails(text, error, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(error):
        run(page)
    page.write_text("```python\nprint(2.51)\n```\n\n```text\n2.5...\n```\n")
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_printed_output_stands_under_the_block_that_prints_it(page):
    text = page.read_text()
    assert len(blocks(page, "text")) == len(re.findall(r"^```\n\n```text$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_on_a_page_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks(page, "sh") + re.findall(r"`(make [^`]+)`", text))):
        assert command in targets
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for code in re.findall(r"`((?:jaxmix|experiments|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / code).exists(), code


def test_every_figure_is_small_and_shown():
    figures = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    shown = {name for page in PAGES for name in re.findall(r"!\[[^]]+\]\([\w/]*figures/([^)]+)\)", page.read_text())}
    assert figures == shown
    assert all((ROOT / "docs" / "figures" / name).stat().st_size < 400_000 for name in figures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_experiments_on_a_page_exist(page):
    modules = set(re.findall(r"python -m (experiments\.\w+)", page.read_text()))
    missing = {module for module in modules if not (ROOT / (module.replace(".", "/") + ".py")).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_that_a_page_links_are_on_the_api_page(page):
    documented = set(re.findall(r"^\.\. auto\w+:: (\S+)$", API, flags=re.MULTILINE))
    for name in re.findall(r"\{py:\w+\}`(?:[^`<]*<)?~?([\w.]+)>?`", page.read_text()):
        assert name in documented or name.rpartition(".")[0] in documented, name


def test_a_mixture_of_counts_with_every_solver_takes_under_forty_lines():
    (problem,) = [block for block in blocks(ROOT / "docs" / "extend.md", "python") if "class PoissonMixture" in block]
    assert len([line for line in problem.splitlines() if line]) < 40
    for name in ("restarts=", "Blocks(", "Squarem(", "optax.adam"):
        assert name in problem


# The topics of the lecture, as its slides name them.
TOPICS = (
    "clustering as vector quantization",
    "the objective J",
    "constraints on Z",
    "non-convexity and brute force",
    "the 1-D exception",
    "initialization",
    "E-step",
    "M-step",
    "termination",
    "gradient descent on J",
    "Newton",
    "cost O(NKD)",
    "bad minima and empty clusters",
    "the proof",
    "the factorization",
    "mixtures",
    "generation",
    "the Gaussian in D dimensions",
    "the likelihood",
    "latent variables",
    "the complete log-likelihood",
    "the bound",
    "E-step derivation",
    "M-step derivation",
    "the EM loop",
    "K-means as a special case",
    "K-means as initialization",
)


def test_each_topic_of_the_lecture_has_mathematics_something_to_run_and_a_function():
    mathematics = (ROOT / "docs" / "mathematics.md").read_text()
    anchors = {
        re.sub(r"[^\w\s-]", " ", heading).strip().lower().replace(" ", "-").replace("--", "-")
        for heading in re.findall(r"^### (.*)$", mathematics, flags=re.MULTILINE)
    }
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in (ROOT / "docs" / "slides.md").read_text().splitlines()
        if line.startswith("| ") and "mathematics.md#" in line
    ]
    linked = {anchor for row in rows for anchor in re.findall(r"mathematics\.md#([\w-]+)", row[1])}
    assert linked == anchors
    for topic, _, seen, functions in rows:
        assert re.search(r"python -m experiments\.\w+|`tests/|\]\(\w+\.md\)", seen), topic
        assert "{py:" in functions, topic
    for topic in TOPICS:
        assert any(row[0].startswith(topic) for row in rows), topic
