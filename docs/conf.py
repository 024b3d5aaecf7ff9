"""Sphinx's configuration: notebooks in Markdown, executed at each build; the API from docstrings.

``make docs`` builds the site by :mod:`docs.build`, which sets the paths of the caches.
"""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import stn_jax
from docs import kernel, public_api

project = "stn_jax"
author = "The stn_jax authors"
copyright = author
version = release = stn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["Thumbs.db"]

# Notebooks. There is a cache only if docs.build has set its path.
kernel.prepare(ROOT)
_cache = os.environ.get("STN_JAX_DOCS_CACHE")
nb_execution_mode = "cache" if _cache else "force"
nb_execution_cache_path = _cache or ""
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_kernel_rgx_aliases = {".*": "python3"}
nb_merge_streams = True
# Output on stderr is a warning, and so an error.
nb_output_stderr = "remove-warn"
nb_render_markdown_format = "gfm"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# API. Every reference in a docstring must have a documented target.
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", ".*")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Types, such as "*out", would be read as emphasis; descriptions give the shapes.
napoleon_attr_annotations = False
napoleon_custom_sections = [("Reference", "References")]
python_maximum_signature_line_length = 72
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"stn_jax {version}"
html_static_path = ["static", "../experiments/report/templates/chart.css"]
html_css_files = ["site.css", "chart.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _signature_of_class(*event: Any) -> tuple[str, str] | None:
    """Restores the constructor's parameters, which the metaclass of Flax modules hides."""
    _, kind, _, member, *_ = event
    return (public_api.signature(member), "") if kind == "class" else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _signature_of_class)
