"""What reaches a screen: nothing that is obeyed, hidden or reordered, and all that writing needs."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from srtui.cli.terminal import Terminal, plain
from srtui.text import json_safe, safe

KEPT = {
    "Persian, with its non-joiner": "می‌خواهم",
    "Hindi, with a joiner": "क्‍ष",
    "Bengali, with a non-joiner at the end": "ক্‌ ",
    "a family of emoji": "👩‍👩‍👧",
    "an emoji with a skin colour and a joiner": "👩🏽‍🚀",
    "a heart in colour": "❤️ and ☺︎",
    "a keycap": "1️⃣",
    "the flag of Scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f!",
    "a variant of a Chinese character": "葛\U000e0100",
    "an Arabic number sign": "\u0600١٢",
    "Hebrew and Arabic": "שלום مرحبا",
    "spaces of other widths": "a\u00a0b\u3000c\u2009d",
    "combining marks": "e\u0301 ตัวอย่าง",
    "tabs and lines": "a\tb\nc",
}
SHOWN = {
    "\x1b[31m": "␛[31m",
    "\x9b31m": "<009b>31m",
    "\x7f": "<007f>",
    "\r": "␍",
    "\u061c": "<061c>",
    "\u200b": "<200b>",
    "a\u2028b\u2029c\u0085d": "a<2028>b<2029>c<0085>d",
    "a\u202eb\u2066c": "a<202e>b<2066>c",
    "\ufeff": "<feff>",
    "so\u00adft": "so<00ad>ft",
    "a\u200db": "a<200d>b",
    "a\u200cb": "a<200c>b",
    "می\u200c\u200cb": "می\u200c<200c>b",
    "\U000e0068\U000e0069": "<e0068><e0069>",
    "🏴\U000e0068\U000e0069\U000e007f": "🏴<e0068><e0069><e007f>",
    "x\ufe0f": "x<fe0f>",
    " \ufe01": " <fe01>",
    "❤\ufe0f\ufe01": "❤\ufe0f<fe01>",
    "a\U000e0101": "a<e0101>",
    "\u3164\u034f": "<3164><034f>",
    "\ue000\U000f0000": "<e000><f0000>",
    "\ufffe\ufdd0": "<fffe><fdd0>",
    "\ud800": "<d800>",
}


@pytest.mark.parametrize("what", KEPT)
def test_what_writing_needs_stays(what: str) -> None:
    assert safe(KEPT[what]) == KEPT[what]


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_hides_is_shown(text: str) -> None:
    assert safe(text) == SHOWN[text]


@pytest.mark.parametrize("category", ["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])
def test_no_character_of_these_categories_passes_alone(category: str) -> None:
    alone = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) == category]
    passed = {c for c in alone if safe(f"x{c}x") == f"x{c}x"} - {"\n", "\t"}
    shaped = {c for c in passed if "ARABIC" in unicodedata.name(c) or "SYRIAC" in unicodedata.name(c)}
    assert {unicodedata.name(c) for c in passed - shaped} <= {
        "KAITHI NUMBER SIGN",
        "KAITHI NUMBER SIGN ABOVE",
    }
    assert "\u061c" not in passed


@given(st.text(st.characters(exclude_categories=[])))
def test_a_second_time_changes_nothing(text: str) -> None:
    once = safe(text)
    assert safe(once) == once
    assert len(once.splitlines()) <= len(once.split("\n"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\U000e0041\u202e\x7f\x9b")
def test_json_reads_the_same_and_hides_nothing(text: str) -> None:
    written = json_safe(json.dumps({"x": text}, ensure_ascii=False))
    assert json.loads(written) == {"x": text}
    for c in written:
        assert unicodedata.category(c) not in ("Cc", "Cs", "Co", "Zl", "Zp")
        assert c not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200e\u200f\u061c"


@given(st.text())
@example("\\[ x \\]")
@example(":smile: [bold]x[/bold] [/] [link=file:///etc/passwd]")
@example("ends in a backslash\\")
@example("\\\\[red]\\")
def test_markup_in_data_is_text(text: str) -> None:
    face = Terminal()
    assert face.render_str(f"[bold]{plain(text)}[/] end").plain == f"{safe(text)} end"
    assert face.render_str(plain(text)).plain == safe(text)
