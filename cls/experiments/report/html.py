"""HTML from strings: every text is escaped, unless it is `Html` already."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_EMPTY = ('br', 'img', 'link', 'meta')  # elements without an end tag
_CONTROL = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')  # not in HTML


class Html(str):
    """A piece of HTML, the only kind of text that is not escaped."""

    __slots__ = ()


def text(value: Any) -> Html:
    """Returns a value as HTML: Html itself, everything else as escaped text."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_CONTROL.sub('\ufffd', str(value))))


def joined(*parts: Any) -> Html:
    """Returns pieces in a row; None and '' are left out."""
    return Html(''.join(text(part) for part in parts if part is not None))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """Returns an element.

    Args:
      name: of the element.
      *children: pieces of its content.
      **attributes: those that are None or False are left out, True has no value; '_' becomes '-',
        except at the end of a Python keyword.
    """
    pairs = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip('_').replace('_', '-')
        pairs.append(f' {key}' if value is True else f' {key}="{text(_short(value))}"')
    start = f'<{name}{"".join(pairs)}>'
    return Html(start if name in _EMPTY else f'{start}{joined(*children)}</{name}>')


def _short(value: Any) -> Any:
    """Returns a float as text with two decimals at most: coordinates need no more."""
    return f'{value:.2f}'.rstrip('0').rstrip('.') if isinstance(value, float) else value


def table(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], words: int = 1, class_: str = ''
) -> Html:
    """Returns a table in a box that scrolls sideways; its columns sort when clicked.

    Args:
      header: the titles of the columns.
      rows: the cells; None is an empty one.
      words: the number of columns of text at the left; the others are of numbers.
      class_: a class for style.
    """

    def cell(kind: str, column: int, value: Any) -> Html:
        shown = '' if value is None else value
        return tag(kind, shown, class_=None if column < words else 'n')

    def line(kind: str, cells: Sequence[Any]) -> Html:
        return tag('tr', *(cell(kind, i, value) for i, value in enumerate(cells)))

    content = tag('thead', line('th', header)), tag('tbody', *(line('td', row) for row in rows))
    return tag('div', tag('table', *content), class_=f'scroll {class_}'.rstrip(), tabindex='0')


def pairs(rows: Iterable[tuple[Any, Any]]) -> Html:
    """Returns a list of terms and their values; pairs with the value None are left out."""
    each = [joined(tag('dt', term), tag('dd', value)) for term, value in rows if value is not None]
    return tag('dl', *each)


def details(summary: Any, *content: Any, open_: bool = False) -> Html:
    """Returns a part that opens when its summary is clicked."""
    return tag('details', tag('summary', summary), *content, open=open_)
