"""What README and docs say is run: their code, page by page, and their commands."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        # The first page of the site is a part of README.md.
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name == "index.md" else [])
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_code_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # As a user starts: float32, and JAX's default rank promotion.
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        namespace: dict[str, object] = {}
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_on_a_page_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks(page, "sh") + re.findall(r"`(make [^`]+)`", text))):
        assert command in targets
    for module in re.findall(r"python -m (experiments\.\w+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for code in re.findall(r"`((?:jaxmix|experiments|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / code).exists(), code


def test_the_problem_of_the_docs_is_short_enough_to_write_in_one_sitting():
    (problem,) = [block for block in blocks(ROOT / "docs" / "extend.md", "python") if "class PoissonMixture" in block]
    assert len(problem.strip().splitlines()) < 60


def test_every_public_name_is_on_the_api_page():
    import jaxmix

    page = (ROOT / "docs" / "api.md").read_text()
    for face in ("", "kmeans.", "gmm.", "metrics.", "seeding.", "solve.", "sweep."):
        module = getattr(jaxmix, face.rstrip(".")) if face else jaxmix
        for name in getattr(
            module,
            "__all__",
            [
                n
                for n in vars(module)
                if n in ("starts", "maximin", "random_rows", "kmeans_parallel", "Sweep", "grid", "mixtures")
            ],
        ):
            value = getattr(module, name)
            if callable(value) and name != "Status":
                owner = f"jaxmix.{face}{name}"
                assert re.search(rf":: {re.escape(owner)}$", page, flags=re.MULTILINE), f"{owner} has no page"
