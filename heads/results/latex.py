"""Tables for a paper: LaTeX for the package booktabs.

What comes in: names of columns, and cells as people read them. What goes out: lines of LaTeX, everything in them escaped, and a
comment above them that says what compiles them (`needed`). What a score looks like is not decided here
(`tfser.heads.results.written`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from tfser.heads.results.marks import IN_LATEX
from tfser.manifests.wording import visible

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"{\char34}", "±": r"$\pm$", "−": r"$-$", "…": r"\ldots{}", "[": "{[}", "]": "{]}", "*": "{*}", **IN_LATEX,
}  # fmt: skip

_JOINED = re.compile(r"([-,'`])(?=[-,'`])|[!?](?=`)")
"""Letters that LaTeX draws as another one where they follow one another: two hyphens as a dash."""

_BEYOND_T1 = frozenset("ĦħĸĿŀŉŦŧſ\xad")
"""Letters of Latin-1 and Latin Extended-A that pdflatex does not draw."""

_IN_T1 = frozenset("–—‘’‚“”„‹›•€")


def latex(text: str) -> str:
    r"""Return a text as LaTeX writes it.

    >>> print(latex("tf_mamba: 5 %"))
    tf\_mamba: 5 \%
    """
    # A letter and a mark that sits on it are one letter wherever there is one: engines draw that, and not always the two.
    whole = unicodedata.normalize("NFC", visible(text))
    apart = _JOINED.sub(r"\g<0>\0", whole)
    return "".join("{}" if letter == "\0" else _ESCAPED.get(letter, letter) for letter in apart)


def needed(lines: Iterable[str]) -> list[str]:
    r"""Return the comments that say which packages and which engine some lines of LaTeX need.

    >>> print(*needed([r"tf\_mamba"]), sep="\n")
    % needs \usepackage{booktabs} and \usepackage[T1]{fontenc}
    >>> needed(["愤怒"])[0].partition(":")[0]
    '% compile with lualatex or xelatex'
    """
    lines = list(lines)
    others = sorted({letter for line in lines for letter in line if not _in_t1(letter)})
    packages = "booktabs,graphicx" if any(r"\resizebox" in line for line in lines) else "booktabs"
    if not others:
        return [rf"% needs \usepackage{{{packages}}} and \usepackage[T1]{{fontenc}}"]
    some = " ".join(others[:8]) + (" ..." if len(others) > 8 else "")
    return [
        f"% compile with lualatex or xelatex: pdflatex knows no {some}",
        rf"% needs \usepackage{{{packages}}}, and \usepackage{{fontspec}} with \setmainfont{{a font that has them, as Noto}}",
    ]


def _in_t1(letter: str) -> bool:
    """Tell whether pdflatex draws a letter in the encoding T1."""
    return (letter < "\u0180" and letter not in _BEYOND_T1) or letter in _IN_T1


def within_the_line(lines: Sequence[str]) -> list[str]:
    """Return a `tabular` that is made smaller where it would be wider than the line, by the package graphicx."""
    return [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%", *lines[:-1], rf"{lines[-1]}}}"]


def tabular(names: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str]) -> list[str]:
    """Return rows of cells as an environment `tabular`; ``right`` are the columns whose cells end at one line."""
    columns = "".join("r" if name in right else "l" for name in names)
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(latex, names)) + r" \\",
        r"\midrule",
        *(" & ".join(latex(str(value)) for value in row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
