"""How Sphinx builds these pages: `make docs`, or `python -m sphinx -W -n -b html docs docs/_build/html`.

The site needs no network, neither to build nor to read.
"""

import re

from docutils import nodes

import treadle

project = "Treadle"
author = "the Treadle authors"
project_copyright = "the Treadle authors"
version = release = treadle.__version__
html_title = f"Treadle {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# --- pages: Markdown ---

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

# --- docstrings: Google style ---

default_role = "literal"
smartquotes = False
highlight_language = "none"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Names that other projects, or inner rooms of this one, document.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|pathlib|os|re|collections|contextlib|types)\..*"),
    (r"py:.*", r"treadle\.[a-z_.]+\.(T|Group|Groups|Supervised|Conditions|FromTorch|Zipped|Pad)|Scheduled"),
]

# What single backticks may say, and where it is documented.
KNOWN = {f"treadle.{name}": f"treadle.{name}" for name in treadle.__all__}
KNOWN |= {name: f"treadle.{name}" for name in treadle.__all__ if name[0].isupper()}
KNOWN |= {"treadle.data.sources": "treadle.data.sources", "Order": "treadle.data.order.Order"}
KNOWN |= {"Progress": "treadle.core.when.Progress", "Loader": "treadle.data.loader.Loader"}
for module in (treadle.data, treadle.errors, treadle.metrics, treadle.schedules):
    KNOWN |= {f"{module.__name__}.{name}": f"{module.__name__}.{name}" for name in module.__all__}
METHODS = re.compile(r"(treadle\.)?(Run|Trainer|Step)\.([a-z_]+)")


def link_names(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """In docstrings, make `Run` and `treadle.Run` links; any other name in single backticks stays code."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # or napoleon takes what stands before a colon for a type
    for place, line in enumerate(lines):
        lines[place] = re.sub(r"(?<![`:])`([\w.]+)`(?!`)", _linked, line)


def _linked(found: re.Match[str]) -> str:
    name = found[1]
    if name in KNOWN:
        return f":py:obj:`{name} <{KNOWN[name]}>`"
    if method := METHODS.fullmatch(name):
        return f":py:obj:`{name} <{KNOWN[method[2]]}.{method[3]}>`"
    return found[0]


def draw_dashes(app: object, doctree: nodes.document) -> None:
    """Draw the dash between a parameter and its text. Smart quotes would also draw one in ``--help``."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", link_names, priority=400)  # type: ignore[attr-defined]
    app.connect("doctree-read", draw_dashes)  # type: ignore[attr-defined]
