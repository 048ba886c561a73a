"""The built site: no warning, no network, every formula drawn, every picture there."""

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """What a page holds: formulas, formulas drawn, pictures, and what it would load."""

    def __init__(self, path: Path):
        super().__init__()
        self.displayed = self.drawn = 0
        self.pictures: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        """Counts a tag."""
        values = {name: value or "" for name, value in attrs}
        self.displayed += tag == "div" and values.get("class") == "math"
        self.drawn += tag == "math"
        if tag == "img":
            self.pictures.append(values["src"])
        if tag in ("script", "img"):
            self.loaded.append(values.get("src", ""))
        if tag == "link":
            self.loaded.append(values.get("href", ""))


@pytest.mark.parametrize(
    ("short", "braced"),
    [
        (r"\tfrac12 x", r"\tfrac{1}{2} x"),
        (r"\frac1\beta H", r"\frac{1}{\beta} H"),
        (r"\tfrac\kappa2 (m)", r"\tfrac{\kappa}{2} (m)"),
        (r"x^12 + y_01", r"x^{1}2 + y_{0}1"),
        (r"a, \dots, b", r"a, \ldots, b"),
    ],
)
def test_formulas_are_read_as_tex_reads_them(short, braced):
    pytest.importorskip("sphinx")
    nodes = pytest.importorskip("docutils.nodes")
    mathml = runpy.run_path(str(ROOT / "docs" / "conf.py"))["mathml"]
    first, second = (mathml(nodes.math("", text), block=True) for text in (short, braced))
    assert first == second
    assert "<munder" not in mathml(nodes.math("", r"\bar x_k"), block=True)


@pytest.mark.slow
def test_the_site_builds_and_shows_mathematics_and_pictures_without_a_network(tmp_path):
    pytest.importorskip("sphinx")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(tmp_path),
    ]
    built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert built.returncode == 0, built.stderr
    for source in (ROOT / "docs").glob("*.md"):
        page = Page(tmp_path / f"{source.stem}.html")
        text = source.read_text()
        plain = re.sub(r"^```python.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
        formulas = text.count("```{math}") + len(re.findall(r"\$\$.+?\$\$", plain, flags=re.DOTALL))
        inline = len(re.findall(r"(?<!\$)\$[^$]+\$(?!\$)", re.sub(r"\$\$.+?\$\$", "", plain, flags=re.DOTALL)))
        if source.stem != "api":
            assert (page.displayed, page.drawn) == (formulas, formulas + inline), source.name
        assert len(page.pictures) == len(re.findall(r"!\[", text))
        assert all((tmp_path / picture).exists() for picture in page.pictures)
        assert not [address for address in page.loaded if re.match(r"(https?:)?//", address)]
    assert Page(tmp_path / "api.html").displayed > 50
