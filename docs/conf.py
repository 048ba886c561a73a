"""Sphinx configuration: pages in Markdown, API pages from the docstrings, mathematics as MathML."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

import jaxmix

project = "jaxmix"
author = copyright = "the jaxmix authors"
version = release = jaxmix.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "py:obj"  # of docstrings: a link where the name is known, else code
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["mathematics.css"]
html_math_renderer = "mathml"
html_title = "jaxmix"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def mathematics(app, what, name, obj, options, lines):
    """Docstrings write mathematics as pages do, $inline$ and $$displayed$$; reST has its own words for them."""
    text = "\n".join(lines)
    text = re.sub(
        r"\$\$(.+?)\$\$",
        lambda m: ".. math::\n\n   " + " ".join(m.group(1).split()) + "\n",
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r"(?<!\$)\$([^$\n]+)\$(?!\$)", r":math:`\1`", text)
    lines[:] = text.split("\n")


def mathml(node: nodes.Node, *, block: bool) -> str:
    """A formula as MathML, which browsers draw by themselves: the site needs no network and no script."""
    # Docutils lacks a name of the dots, and takes arguments without braces for longer than TeX does.
    argument = r"\s*(\\[a-zA-Z]+|[^\s{\\])"
    text = re.sub(r"\\dots\b", r"\\ldots", node.astext())
    text = re.sub(rf"(\\[td]?frac){argument}{argument}", r"\1{\2}{\3}", text)
    text = re.sub(r"([_^])(\d)(?=\d)", r"\1{\2}", text)
    try:
        formula = tex2mathml(text, as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("no MathML for %s: %s", text, error, location=node)
        raise nodes.SkipNode from error
    room, letter = '<mspace width="0.17em"></mspace>', r"(<mi>.</mi>)"
    for pattern, replacement in [
        # A bar is a fence here, without the room of an operator.
        (r'<mo(?: stretchy="false")?>([|‖])</mo>', r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>'),
        # A function has room on both sides, but before a bracket.
        (r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>\()", room),
        (r'(</(?:msub|mi|mn|mfrac|msup)>\s*)(<mi(?: mathvariant="normal")?>(?:log|tr)</mi>)', rf"\1{room}\2"),
        # What stands below an accented letter is its index, and no limit.
        (
            rf"<munderover>\s*{letter}(.+?)(<mo[^>]*>[ˆˉ~]</mo>)\s*</munderover>",
            r'<msub><mover accent="true">\1\3</mover>\2</msub>',
        ),
    ]:
        formula = re.sub(pattern, replacement, formula, flags=re.DOTALL)
    return formula


def inline(translator, node):
    """A formula within a line."""
    translator.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def displayed(translator, node):
    """A formula on its own line, with its number where it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(mathml(node, block=True))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this formula")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def signature(app, what, name, obj, options, signature, returns):
    """Signatures by the library's own word for what it reads as an array, not by all that JAX's stands for."""
    array = (
        r"~?jax\S*\.Array \| ~?numpy\.ndarray [^\[\]=,)]*?complex(?: \| ~?collections\.abc\.Sequence\[~?typing\.Any\])?"
    )
    named = re.sub(r"<function (\w+)[^>]*>", r"\1", signature or "")
    return (signature and re.sub(array, "ArrayLike", named)), returns


def setup(app):
    # Before napoleon, which rewrites sections.
    app.connect("autodoc-process-docstring", mathematics, priority=100)
    app.connect("autodoc-process-signature", signature)
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
