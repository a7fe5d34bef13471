"""The templates of the report and of `tfser ui`: where they are, and how other people's text becomes part of a page.

In goes nothing but the names of the folders below `tfser.heads` that hold templates; out comes Jinja's environment, in which
every value is escaped by default, an undefined one is an error, and two filters show text that a browser might obey: `shown` on
one line, `shown_lines` on several; `cell` is what a cell of a table holds. What this package has drawn and escaped by itself is
marked as `Safe`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from tfser.manifests.wording import visible

if TYPE_CHECKING:
    from jinja2 import Environment


class Safe(str):
    """HTML or SVG that this package made and escaped."""

    def __html__(self) -> str:
        return self


def cell(value: Any) -> Safe:
    """Return what a cell of a table holds: a text or number, or a link, a player or a box to tick, which are mappings.

    Pages have thousands of cells: a macro would take ten times as long.

    >>> cell("a < b"), cell({"href": "x?a=1&b", "text": "one"})
    ('<bdi>a &lt; b</bdi>', '<a href="x?a=1&amp;b">one</a>')
    """
    if not isinstance(value, Mapping):
        return Safe(f"<bdi>{escape(visible(str(value)))}</bdi>")
    text = escape(visible(str(value["text"])))
    if "href" in value:
        return Safe(f'<a href="{escape(value["href"])}">{text}</a>')
    if value.get("audio"):
        named = f' id="{escape(value["id"])}"' if "id" in value else ""
        return Safe(f'<audio{named} controls preload="none" src="{escape(value["audio"])}" aria-label="{text}"></audio>')
    if "player" in value:
        return Safe(f'<a class="same" href="#{escape(value["player"])}" aria-label="{text}: its player above">player above</a>')
    if "box" in value:
        name, box = escape(value["name"]), escape(str(value["box"]))
        return Safe(f'<input type="checkbox" name="{name}" value="{box}" aria-label="{text}">')
    return Safe(text)


@functools.cache
def environment(*folders: str) -> Environment:
    """Return the environment whose templates are in folders of `tfser.heads`; of two of a name, that of the first folder."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader("tfser.heads", folder) for folder in folders]
    made = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["cell"] = cell
    made.filters["shown"] = lambda value: visible(str(value))
    made.filters["shown_lines"] = lambda value: "\n".join(visible(line) for line in str(value).split("\n"))
    return made
