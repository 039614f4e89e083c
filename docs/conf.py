# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sphinx configuration. To build the site: $(scripts/venv docs)/sphinx-build docs docs/_build"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docutils import nodes
from docutils.parsers.rst import Directive

from drgn_unaccepted import __version__
from drgn_unaccepted.cli import parser

project = "drgn-unaccepted"
author = "drgn-unaccepted"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.intersphinx"]
# The build uses no network: references to other projects' docs stay plain text.
intersphinx_mapping: dict[str, Any] = {}
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
nitpicky = False
# Field comments are written for readers of the source and may contain literals that end in a space.
suppress_warnings = ["docutils"]

html_theme = "alabaster"
html_theme_options = {"description": "Which memory has this guest accepted, and how do we know?", "page_width": "64em"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

# Doctests read the samples, whatever directory the site is built in.
doctest_global_setup = f"""
import os
os.chdir({str(Path(__file__).resolve().parent.parent)!r})
"""


class CommandHelp(Directive):
    """Literal ``--help`` output of the program or of one command."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        chosen = parser()
        if self.arguments:
            (commands,) = [action for action in chosen._actions if isinstance(action.choices, dict)]
            chosen = commands.choices[self.arguments[0]]
        text = chosen.format_help()
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Any) -> None:
    app.add_directive("command-help", CommandHelp)
