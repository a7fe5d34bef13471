"""Text that went through the wrong encoding comes back, and text that did not stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.pipeline.corpora.repair import repair

PLAIN = st.text(st.sampled_from("abcXYZ 0123.,!?-'\"“”‘’–—…éèêñóüßÉÑŒœ€™"), max_size=40).map(str.strip)
"""What English text with some foreign names holds."""


def spoiled(text: str) -> str:
    """UTF-8, taken for Windows-1252 (for Latin-1 where that has no character)."""
    result = ""
    for byte in text.encode():
        try:
            result += bytes([byte]).decode("cp1252")
        except UnicodeDecodeError:
            result += chr(byte)
    return result


@given(PLAIN)
def test_plain_text_stays(text):
    assert repair(text) == text


@given(PLAIN, st.integers(1, 2))
def test_utf8_taken_for_windows_1252_comes_back(text, times):
    rubbish = text
    for _ in range(times):
        rubbish = spoiled(rubbish)
    assert repair(rubbish) == text


@given(PLAIN)
def test_windows_1252_taken_for_latin_1_comes_back(text):
    assert repair(text.encode("cp1252").decode("latin-1")) == text


@given(st.text())
def test_any_text_is_taken(text):
    repaired = repair(text)
    assert "\n" not in repaired and repaired == repaired.strip()


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20)).map(str.strip))
def test_ascii_stays(text):
    assert repair(text) == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("My company\u0092s \u0093thing\u0094 \u0096 well\u0085", "My company’s “thing” – well…"),
        ("She said â€œyesâ€ twice", "She said “yes” twice"),  # the last byte of the closing mark is lost
        ("two\r\nlines\u00a0here ", "two lines here"),
        ("\ufeffNestlé", "Nestlé"),
        ("你好 — Здравствуйте", "你好 — Здравствуйте"),
        ("", ""),
    ],
)
def test_cases(written, meant):
    assert repair(written) == meant
