"""Repairing text whose encoding went wrong on its way through spreadsheets and scripts.

Three accidents turn an apostrophe into rubbish, and corpora hold all of them: Windows-1252 taken for Latin-1 (U+0092), UTF-8
taken for Windows-1252 (three characters that begin with an a with a circumflex), and the latter twice. Only what can be
nothing else is touched: the result of a repair must be a character that Windows-1252 has, so no plain text changes.

>>> repair("It\\u0092s fianc\\u00c3\\u00a9e \\u00e2\\u20ac\\u201d so?"), repair("Café — ‘Nestlé’ É“")
('It’s fiancée — so?', 'Café — ‘Nestlé’ É“')
"""

from __future__ import annotations

import functools
import re


def _character(byte: int) -> str:
    """Return what Windows-1252 makes of a byte, and Latin-1 where it has no character."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_HIGH = {_character(byte): byte for byte in range(0x80, 0x100)}
_BYTES = {**{chr(byte): byte for byte in range(0x80, 0x100)}, **_HIGH}
"""The byte behind a character of Windows-1252 or Latin-1, from 0x80."""
_CONTROLS = {byte: _character(byte) for byte in range(0x80, 0xA0)}
_BLANKS = {0xA0: " ", 0xFEFF: "", 0x2028: " ", 0x2029: " "}


@functools.cache
def _sequence() -> re.Pattern[str]:
    """Return what finds a character as UTF-8 encodes it; made when a text is repaired, since every command imports this."""
    of = {
        name: re.escape("".join(c for c, byte in _BYTES.items() if low <= byte <= high))
        for name, low, high in (("more", 0x80, 0xBF), ("two", 0xC2, 0xDF), ("three", 0xE0, 0xEF), ("four", 0xF0, 0xF4))
    }
    return re.compile("[{two}][{more}]|[{three}][{more}]{{2}}|[{four}][{more}]{{3}}".format(**of))


def repair(text: str) -> str:
    """Return text with such accidents undone, line breaks and no-break blanks made plain blanks, none at the ends."""
    for _ in range(3):
        before, text = text, _sequence().sub(_decoded, text)
        if text == before:
            break
    # A closing quotation mark loses its last byte, for which Windows-1252 has no character.
    text = text.replace("â€", "”").translate(_CONTROLS).translate(_BLANKS)
    return re.sub(r"[\r\n\t\v\f]+", " ", text).strip()


def _decoded(match: re.Match[str]) -> str:
    """Return the character that a sequence was, or the sequence if it was none of Windows-1252's."""
    try:
        character = bytes(_BYTES[c] for c in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]
    return character if character in _BYTES else match[0]
