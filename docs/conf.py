"""Sphinx configuration: pages in Markdown, API pages from the docstrings."""

import jaxmix

project = "jaxmix"
author = "the jaxmix authors"
version = release = jaxmix.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxmix"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def mathematics(app, what, name, obj, options, lines):
    """Docstrings write mathematics as pages do, $inline$ and $$displayed$$; reST has its own words for them."""
    import re

    text = "\n".join(lines)
    text = re.sub(
        r"\$\$(.+?)\$\$",
        lambda m: ".. math::\n\n   " + " ".join(m.group(1).split()) + "\n",
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r"(?<!\$)\$([^$\n]+)\$(?!\$)", r":math:`\1`", text)
    lines[:] = text.split("\n")


def setup(app):
    # Before napoleon, which rewrites sections.
    app.connect("autodoc-process-docstring", mathematics, priority=100)
