"""Tables for a paper: LaTeX for the package booktabs.

What comes in: names of columns, and cells as people read them. What goes out: lines of LaTeX, everything in them escaped. What a
score looks like is not decided here (`tfser.heads.results.written`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tfser.heads.results.marks import IN_LATEX
from tfser.manifests.wording import visible

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"{\char34}", "±": r"$\pm$", "−": r"$-$", "…": r"\ldots{}", "[": "{[}", "]": "{]}", **IN_LATEX,
}  # fmt: skip


def latex(text: str) -> str:
    r"""Return a text as LaTeX writes it.

    >>> print(latex("tf_mamba: 5 %"))
    tf\_mamba: 5 \%
    """
    return "".join(_ESCAPED.get(letter, letter) for letter in visible(text))


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
