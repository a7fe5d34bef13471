"""The templates of the report and of `tfser ui`: where they are, and how other people's text becomes part of a page.

In goes nothing but the names of the folders below `tfser.heads` that hold templates; out comes Jinja's environment, in which
every value is escaped by default, an undefined one is an error, and two filters show text that a browser might obey: `shown` on
one line, `shown_lines` on several. What this package has drawn and escaped by itself is marked as `Safe`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tfser.manifests.wording import visible

if TYPE_CHECKING:
    from jinja2 import Environment


class Safe(str):
    """HTML or SVG that this package made and escaped."""

    def __html__(self) -> str:
        return self


@functools.cache
def environment(*folders: str) -> Environment:
    """Return the environment whose templates are in folders of `tfser.heads`; of two of a name, that of the first folder."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader("tfser.heads", folder) for folder in folders]
    made = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["shown"] = lambda value: visible(str(value))
    made.filters["shown_lines"] = lambda value: "\n".join(visible(line) for line in str(value).split("\n"))
    return made
