"""Sphinx: `make docs` builds the pages of this folder, strict."""

from __future__ import annotations

from importlib.metadata import version as distribution_version

project = "proxymode"
author = "the proxymode authors"
project_copyright = "the proxymode authors, Apache-2.0"
release = version = distribution_version("proxymode")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
exclude_patterns = ["_build"]
highlight_language = "none"  # a block that names no language has none: tables of packets are not Python

html_theme = "furo"
html_title = f"proxymode {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

smartquotes = False  # or flags lose a dash
