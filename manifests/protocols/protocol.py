"""What a protocol is: which utterances take part, under which class, who tests whom, and who validates.

The named ones are in `named`, what they are called in `protocols`, users' own in `own_protocols`, and what a protocol makes of
a corpus's rows in `folds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GROUP_COLUMNS = ("speaker", "session", "dialogue", "sentence")
"""The columns of `utterances` that folds can be made of, and kept apart."""

JOINED_BY = "+"
"""What stands between the corpora of a protocol over several, in `runs.corpus` and `protocols.corpora`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of splitting a corpus, or several.

    `corpora` names the corpora (by reader) that it is for; None is any. `over` names the corpora of the cache that it draws on,
    in natural order; None is the one that it is asked for. `labels` maps the labels of `label_column` to classes, in the order of
    the classes; None takes every label as its own class but those that name no emotion (over several corpora: those that all of
    them have). `where` is an SQL condition on `utterances`.

    `grouped_by` is the column whose values become the groups; over several corpora a group is called `corpus/value`. Then one of

    * `k`: the groups are dealt into that many folds;
    * `groups`: the groups that each fold tests, one list a fold;
    * `sides`: the role of each group, in a single fold;
    * none of these: one fold a group.

    What `groups` and `sides` do not list is `others`: an error, left out of the protocol, or trained on in every fold.

    `validation` is one of the policies of `validation`, or `split` where `sides` may have a val side of their own. `used_by` says
    who uses the protocol in the literature. `needs` is what has to be said behind the name, for generic protocols.
    """

    name: str
    summary: str
    version: int = 1
    corpora: tuple[str, ...] | None = None
    over: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    label_column: str = "label"
    where: str = "TRUE"
    grouped_by: str = "speaker"
    k: int | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    sides: Mapping[str, str] | None = None
    crossed: tuple[tuple[str, int | None], ...] = ()
    """Further columns that folds are made of, each dealt into so many parts (None: one a value). A fold tests what is in one part
    of every column, and trains on what is in none of them; whoever is in some of them takes no part in that fold (`left_out`)."""
    stratified: bool = False
    """With `k`: groups are dealt so that each class (of ratings: each dimension's quartiles) is spread evenly over the folds."""
    others: str = "error"
    keeps_apart: tuple[str, ...] = ("speaker",)
    validation: str = "none"
    used_by: tuple[str, ...] = ()
    needs: str | None = None
    listed: str | None = None
    """The published split that says who is tested where (`listed`), instead of groups."""

    rated: tuple[str, ...] = ()
    """Dimensions that each utterance must be rated for; then there are no classes, and an utterance needs no label."""

    @property
    def corpus(self) -> str | None:
        """The corpora of `over` in one word, as `runs.corpus` has them."""
        return JOINED_BY.join(self.over) if self.over else None
