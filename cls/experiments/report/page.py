"""The page of a report: its header, navigation and sections in the template page.html."""

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cls.experiments.report import sections
from cls.experiments.report.data import Details
from cls.experiments.report.html import Html, joined, tag, text
from cls.experiments.report.recipe import Recipe

_TEMPLATE = Path(__file__).with_name('page.html')


def page(title: str, header: Any, parts: Iterable[tuple[str, Html]], made_by: str) -> bytes:
    """Returns the content of an HTML file.

    Args:
      title: of the window.
      header: the content above the navigation.
      parts: titles and contents of the sections.
      made_by: the program, for the last line.
    """
    parts = list(parts)
    links = [tag('a', name, href=f'#{sections.anchor(name)}') for name, _ in parts]
    footer = tag('footer', f'Written by {made_by}.')
    body = joined(header, tag('nav', *links), *(part for _, part in parts), footer)
    template = string.Template(_TEMPLATE.read_text(encoding='utf-8'))
    return template.substitute(title=text(title), body=body).encode()


def of_run(each: Details, recipe: Recipe | None, made_by: str) -> bytes:
    """Returns the report of one run."""
    title = f'{each.run.name}: report'
    return page(title, sections.header(each), sections.of_run(each, recipe), made_by)
