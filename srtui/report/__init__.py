"""A run on paper: facts gathered from the store, rendered as one HTML file or as Markdown.

``gather`` reads everything into one ``Facts``; ``html`` and ``markdown`` turn it into text and read
nothing more.
"""

from __future__ import annotations

from srtui.report.facts import Facts, gather
from srtui.report.open_questions import open_questions
from srtui.report.render import html, markdown

__all__ = ["Facts", "gather", "html", "markdown", "open_questions"]
