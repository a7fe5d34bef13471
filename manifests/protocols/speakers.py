"""Who speaks, as SQL reads it in a column `speaker`: a name, no name at all, and the spellings of one name.

Corpora write 001, 01 and 1 for one person, spk_1 and spk-1, letters with composed and with decomposed accents; and they write
"Unknown" where nobody knows. Whoever compares speakers asks here, so that every audit and every policy means the same by it.
Nothing here changes what a corpus or a protocol calls its speakers.
"""

from __future__ import annotations

_NOBODY = (
    *("unknown", "unk", "unidentified", "unspecified", "undefined", "unnamed", "anonymous", "not known", "not available"),
    *("n/a", "nan", "none", "null", "missing"),
)
"""Words that stand where a corpus does not know who speaks."""

_PERSON = "(speaker|spk|actor|subject|person)"


def named(column: str) -> str:
    """Return the SQL that gives a speaker's name as it is written, or null where it names nobody ("Unknown", "N/A", "?").

    Args:
        column: an SQL expression of text.
    """
    words = "|".join(_NOBODY)
    nobody = f"[?\\-_ ]*|({_PERSON} )?({words})|({words}) {_PERSON}"
    plain = f"lower(regexp_replace(trim({column}), '[\\s_\\-]+', ' ', 'g'))"
    return f"CASE WHEN NOT regexp_full_match({plain}, '{nobody}') THEN {column} END"


def voice(column: str) -> str:
    """Return the SQL of a name by which spellings of one speaker are equal; null where nobody is named.

    Case, blanks, `_`, `-` and dots between letters and digits, leading zeros, a decimal `.0` that a table program wrote and the
    way accents are composed make no difference; `1-2` and `12` stay two.

    Args:
        column: an SQL expression of text.
    """
    text = f"lower(nfc_normalize(trim({named(column)})))"
    for pattern, replacement in (
        (r"^(\d+)\.0+$", r"\1"),  # 1.0, of a column that was taken for numbers
        (r"[\s\x{00A0}_.\-]+", "-"),
        (r"(\D)-", r"\1"),
        (r"-(\D|$)", r"\1"),
        (r"(^|\D)0+(\d)", r"\1\2"),  # 001, s01
    ):
        text = f"regexp_replace({text}, '{pattern}', '{replacement}', 'g')"
    return text
