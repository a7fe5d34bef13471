"""Letters that the font of figures lacks: which they are, of which script, and which fonts of this machine have them.

In goes the text of a figure; out come the characters without a glyph, the families to draw them with, and what to say where no
installed font has them. Nothing is drawn, installed or downloaded. A figure whose letters the house's own font has never comes
here, so that it is the same on every machine; and neither does the page, which takes the fonts of its reader.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Sequence

HOUSE_FONT = "DejaVu Sans"
"""What figures are drawn with, as Matplotlib brings it: it is on every machine. It has Latin, Greek, Cyrillic and Arabic."""

_HAN = ("Noto Sans CJK", "fonts-noto-cjk")
_WITH_SCRIPT = {"CJK": ("Chinese characters", *_HAN), "HIRAGANA": ("Hiragana", *_HAN), "KATAKANA": ("Katakana", *_HAN),
                "HANGUL": ("Hangul", *_HAN)}  # fmt: skip
"""By the first word of a character's Unicode name: what people call the script, a font that has it, and its Debian package."""

_SYMBOLS = ("symbols", "Noto Sans Symbols 2", "fonts-noto-core")
_NO_LETTERS = ("Last Resort", "STIXNonUnicode", "STIXSize", "cm")
"""How the names of fonts begin that have other glyphs in the places of characters: Matplotlib's for formulas, and its boxes."""

_SHOWN = 4
"""Characters of each script that a message quotes."""


def lacking(texts: Iterable[str], families: Sequence[str] = (HOUSE_FONT,)) -> str:
    """Return the characters of texts that none of some families has a glyph for, each once, in the order of Unicode."""
    from matplotlib import font_manager

    wanted = {c for text in texts for c in text if c.isprintable() and not c.isspace()}
    for family in families:
        font = font_manager.get_font(font_manager.findfont(family))
        wanted = {c for c in wanted if not font.get_char_index(ord(c))}
    return "".join(sorted(wanted))


def families_with(characters: str) -> list[str]:
    """Return as few families as will do of the fonts of this machine that have characters; fewer where none has some of them.

    Those without serifs come first, as the house's own has none, and of these Noto's; the rest by name.
    """
    from matplotlib import font_manager

    _look_again()
    places = {of.name: font_manager.FontPath(of.fname, of.index) for of in font_manager.fontManager.ttflist}
    names = [name for name in places if not name.startswith((*_NO_LETTERS, HOUSE_FONT))]
    names.sort(key=lambda name: ("Sans" not in name, not name.startswith("Noto Sans"), "Serif" in name, name))
    covered: dict[str, set[str]] = {}
    for name in names:
        with contextlib.suppress(OSError, RuntimeError):  # a font that is broken or gone is none
            font = font_manager.get_font(places[name])
            covered[name] = {c for c in characters if font.get_char_index(ord(c))}
    chosen: list[str] = []
    left = set(characters)
    while left and covered:
        best = max(covered, key=lambda name: len(covered[name] & left))  # the first of those that have as many
        if not covered[best] & left:
            break
        chosen.append(best)
        left -= covered[best]
    return chosen


def _look_again() -> None:
    """Let Matplotlib know the fonts that were installed since it wrote its list of them, which it does not by itself."""
    from matplotlib import font_manager

    listed = {of.fname for of in font_manager.fontManager.ttflist}
    for path in sorted(font_manager.findSystemFonts()):
        if path not in listed:
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):  # bitmaps and broken files are of no use
                font_manager.fontManager.addfont(path)


def boxes_text(characters: str) -> str:
    """Say which characters are boxes in a file, and what to install.

    >>> print(boxes_text("\u6124"))  # doctest: +ELLIPSIS
    no installed font has Chinese characters (愤): boxes stand for them in this file. Install one that does, as Noto Sans CJK...
    """
    scripts: dict[tuple[str, str, str], str] = {}
    for c in characters:
        scripts[_script(c)] = scripts.get(_script(c), "") + c
    named = ", ".join(f"{of[0]} ({had[:_SHOWN]}{'...' if len(had) > _SHOWN else ''})" for of, had in scripts.items())
    fonts = ", ".join(dict.fromkeys(font for _, font, _ in scripts))
    packages = " ".join(sorted({package for _, _, package in scripts}))
    return (
        f"no installed font has {named}: boxes stand for them in this file. Install one that does, as {fonts} "
        f"(Debian, Ubuntu: apt install {packages}), and run this again; the page of `tfser report` takes its reader's fonts"
    )


def _script(character: str) -> tuple[str, str, str]:
    """Return what the script of a character is called, a font that has it, and the Debian package of that."""
    word = unicodedata.name(character, "").split(" ")[0].split("-")[0]
    if word in _WITH_SCRIPT:
        return _WITH_SCRIPT[word]
    if not unicodedata.category(character).startswith(("L", "M")):
        return _SYMBOLS
    return word.capitalize(), f"Noto Sans {word.capitalize()}", "fonts-noto-core"
