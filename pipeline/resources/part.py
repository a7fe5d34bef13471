"""A part of an extraction: the share of a corpus that one of several processes takes, on one machine or many.

What comes in: `3/16`, or `slurm` in a job array. What goes out: a `CorpusPart`, which says of each utterance whether it has it.
The share follows from the content hash alone: it is the same on every machine, in every order of starting and however the corpus
grows, and copies of one recording go to the same part. Nothing here reads audio or writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfser.manifests.errors import UsageError

SLURM = "slurm"
"""What stands for the place of this process in its job array."""

MOST = 10_000
"""Parts at most: beyond it, parts of the largest corpora would be a handful of utterances each."""

_WRITTEN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class CorpusPart:
    """One of `parts` shares, counted from 1.

    >>> str(CorpusPart(3, 16)), CorpusPart(3, 16).name
    ('3/16', 'part-3-of-16')
    """

    number: int
    parts: int

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    @property
    def name(self) -> str:
        """As it stands in the name of a lock."""
        return f"part-{self.number}-of-{self.parts}"

    def holds(self, content_hash: str) -> bool:
        """Tell whether an utterance of these samples is one of the share.

        >>> [CorpusPart(k, 2).holds("0f" * 32) for k in (1, 2)]
        [True, False]
        """
        # The hash is spread evenly, so that parts differ by chance alone: with n utterances each, by about the root of n.
        return int(content_hash[:15], 16) % self.parts == self.number - 1


def read_part(text: str) -> CorpusPart:
    """Return what `K/N` or `slurm` stands for.

    Raises:
        UsageError: if it is neither, K is not one of 1 to N, or there is no job array.

    >>> read_part("3/16")
    CorpusPart(number=3, parts=16)
    """
    if text.strip().lower() == SLURM:
        return of_job_array(os.environ)
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise UsageError(f"--part {text}: write K/N, for instance 3/16, or {SLURM} in a job array")
    number, parts = int(written[1]), int(written[2])
    if not 1 <= parts <= MOST:
        raise UsageError(f"--part {text}: there may be 1 to {MOST:,} parts")
    if not 1 <= number <= parts:
        raise UsageError(f"--part {text}: parts of {parts} are counted from 1/{parts} to {parts}/{parts}")
    return CorpusPart(number, parts)


def of_job_array(environment: Mapping[str, str]) -> CorpusPart:
    """Return the part of this task of a SLURM job array: the place of its index among those of the array.

    SLURM counts from any number and in any step (`--array=0-15`, `--array=1-31:2`); a list with gaps (`--array=1,5,9`) has no
    step by which a task knows its place.

    Raises:
        UsageError: if this is no job array, or its indices do not lie at even steps.

    >>> of_job_array({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "6",
    ...               "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"})
    CorpusPart(number=3, parts=4)
    """
    names = {key: f"SLURM_ARRAY_TASK_{key.upper()}" for key in ("id", "min", "max", "count")}
    missing = [name for name in names.values() if not re.fullmatch("[0-9]+", environment.get(name, ""))]
    if missing:
        value = environment.get(missing[0], "")
        why = f"is {value!r}, no number" if value else "is not set"
        raise UsageError(f"--part {SLURM}: this is no task of a SLURM job array ({missing[0]} {why}); write --part K/N")
    index, first, last, count = (int(environment[names[key]]) for key in ("id", "min", "max", "count"))
    # The step is not set by every version; count and edges say the same, where the indices are even.
    step = (last - first) // max(count - 1, 1) or 1
    if first + step * (count - 1) != last or (index - first) % step or not first <= index <= last:
        raise UsageError(
            f"--part {SLURM}: the indices of this job array ({count} from {first} to {last}) do not lie at even steps; "
            "write --array=1-16 or --part K/N"
        )
    return CorpusPart((index - first) // step + 1, count)
