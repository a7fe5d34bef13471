"""The names of feature sets: `wavlm-large/12+normalise=false+float16`, and `...@1a2b3c4d` for one that a newer one replaced.

    name      = encoder [ "/" layer ] { "+" option } [ "+" dtype ] [ "@" fingerprint ]
    layer     = a number | "mean" | "all" | layer "-of-all" | "mix-" digits
    option    = key "=" value
    joined    = name { "+" name }        (`tfser cache join`: frames side by side)

What comes in: a name as people and the catalogue write it. What goes out: its parts, other names made of them, and the feature
sets that a name which is not whole may mean. A name that a user made up (`--name`) has no parts but what this grammar finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from tfser.manifests.errors import UsageError

ALL = "all"
"""The layer of a feature set that holds all layers of its encoder side by side."""

DTYPES = ("float32", "float16")
"""What frames may be stored as; the first is the default, which names leave out."""

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+=-]*")


@dataclass(frozen=True, kw_only=True)
class FeatureName:
    """The parts of a feature set's name."""

    encoder: str
    """Or the front-end: `logmel`."""
    layer: str | None = None
    options: tuple[str, ...] = ()
    """What differs from the defaults, `key=value` each, in the order of the name."""
    dtype: str = DTYPES[0]
    fingerprint: str | None = None
    """First digits of the fingerprint, where a newer feature set bears the plain name."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the parts of a name.

        >>> FeatureName.parse("wavlm-large/all+float16").layer
        'all'
        >>> FeatureName.parse("logmel+bands=40@1a2b3c4d")
        FeatureName(encoder='logmel', layer=None, options=('bands=40',), dtype='float32', fingerprint='1a2b3c4d')
        """
        plain, _, fingerprint = text.partition("@")
        stem, *options = plain.split("+")
        encoder, slash, layer = stem.partition("/")
        dtype = options.pop() if options and options[-1] in DTYPES else DTYPES[0]
        return cls(
            encoder=encoder,
            layer=layer if slash else None,
            options=tuple(options),
            dtype=dtype,
            fingerprint=fingerprint or None,
        )

    def __str__(self) -> str:
        stem = self.encoder if self.layer is None else f"{self.encoder}/{self.layer}"
        name = "+".join([stem, *self.options, *([] if self.dtype == DTYPES[0] else [self.dtype])])
        return name if self.fingerprint is None else f"{name}@{self.fingerprint}"

    @classmethod
    def plain(cls, text: str) -> str:
        """Return a name without the fingerprint, which is what it was called before a newer one took the name.

        >>> FeatureName.plain("logmel+bands=40@1a2b3c4d")
        'logmel+bands=40'
        """
        return text.partition("@")[0]

    @property
    def is_current(self) -> bool:
        """Tell whether this is no feature set that a newer one of the same name replaced."""
        return self.fingerprint is None

    def with_layer(self, layer: str, dtype: str) -> Self:
        """Return the name of one layer out of the same pass, stored as `dtype`; never that of a replaced one.

        >>> str(FeatureName.parse("w/all+window=clip+float16@12345678").with_layer("3", "float32"))
        'w/3+window=clip'
        """
        return replace(self, layer=layer, dtype=dtype, fingerprint=None)

    def could_mean(self, other: FeatureName) -> bool:
        """Tell whether somebody who wrote this name may have meant another one: it has all that was written, and maybe more.

        >>> FeatureName.parse("whisper-base/all").could_mean(FeatureName.parse("whisper-base/all+float16"))
        True
        """
        return (
            self.encoder == other.encoder
            and self.layer in (None, other.layer)
            and set(self.options) <= set(other.options)
            and all("=" in option or option in self.options for option in other.options)  # another set that is joined to it
            and self.dtype in (DTYPES[0], other.dtype)
            and self.fingerprint in (None, other.fingerprint)
        )


def joined_names(text: str) -> list[str]:
    """Return the names of the feature sets that a name joins: itself alone, unless a part is neither an option nor a dtype.

    >>> joined_names("logmel+n_mels=40+float16+wavlm-large/12+float16")
    ['logmel+n_mels=40+float16', 'wavlm-large/12+float16']
    """
    names: list[str] = []
    for part in text.split("+"):
        if names and ("=" in part or part.partition("@")[0] in DTYPES):
            names[-1] += f"+{part}"
        else:
            names.append(part)
    return names


def meant(asked: str, have: Iterable[str]) -> list[str]:
    """Return the feature sets that a name may mean: itself if it is there, else all that have what was written and maybe more.

    Of those of one layer, the ones with the fewest further words count: `whisper-base/3` is `whisper-base/3+float16` rather than
    `whisper-base/3+precision=bfloat16+float16`. Replaced ones are meant only by those who write their fingerprint.

    >>> meant("whisper-base/all", ["logmel", "whisper-base/all+float16"])
    ['whisper-base/all+float16']
    >>> meant("whisper-base", ["whisper-base/3", "whisper-base/6"])
    ['whisper-base/3', 'whisper-base/6']
    """
    names = list(have)
    if asked in names:
        return [asked]
    wanted = FeatureName.parse(asked)
    parsed = {name: FeatureName.parse(name) for name in names}
    close = [name for name, parts in parsed.items() if wanted.could_mean(parts) and (parts.is_current or not wanted.is_current)]
    fewest: dict[str | None, int] = {}
    for name in close:
        layer, words = parsed[name].layer, _words(parsed[name])
        fewest[layer] = min(words, fewest.get(layer, words))
    return [name for name in close if _words(parsed[name]) == fewest[parsed[name].layer]]


def _words(name: FeatureName) -> int:
    """Return how much a name says beyond its encoder and layer."""
    return len(name.options) + (name.dtype != DTYPES[0])


def checked_name(text: str) -> str:
    """Return a name that a feature set may bear.

    Raises:
        UsageError: if it may not.
    """
    if not _ALLOWED.fullmatch(text):
        raise UsageError(f"--name {text!r}: use letters, digits and . _ / + = -, starting with a letter or digit")
    return text
