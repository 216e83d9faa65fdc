"""Gates: cheap signs that a rewrite is not worth comparing. Pure: two pairs in, a reason out. Two of them ask a model and
have their row here alone: their work is in ``srtui/pipeline``.

Each gate looks at what the rewrite changed and compares it with the text before it, so that a data set's own way
of writing stops nothing. What each gets right is in docs/method.md, by hand-labelled rewrites of the demo's teacher.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from srtui.sample import Pair, Target
from srtui.text import without_marks

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?:/\S*)?")
"""Addresses on the web and names of files: their parts are words of no language, and stand in each of a list."""
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>")


class Gated(NamedTuple):
    """The gate that stopped a rewrite, by its key in a recipe, and why in part of a sentence."""

    gate: str
    reason: str


@dataclass(frozen=True)
class Gate:
    """One sign. ``words`` is what people call it; ``sign`` says why a rewrite is stopped, or "" where it passes, and is
    None where a model is asked."""

    words: str
    sign: Callable[[Pair, Pair, Target], str] | None = None


def first_gate(before: Pair, after: Pair, target: Target, gates: Iterable[str]) -> Gated | None:
    """The first of these gates that stops a rewrite; None where it passes all of them.

    Args:
        before: the text that was reflected on.
        after: its rewrite.
        target: which side the stage rewrites; a new instruction comes with a new response.
        gates: keys of :data:`TEXT_GATES`.
    """
    return next(all_gates(before, after, target, gates), None)


def all_gates(
    before: Pair, after: Pair, target: Target, gates: Iterable[str] | None = None
) -> Iterator[Gated]:
    """Each of these gates that stops a rewrite.

    Args:
        before: the text that was reflected on.
        after: its rewrite.
        target: which side the stage rewrites.
        gates: keys of :data:`TEXT_GATES`; None for all of them.
    """
    for name in TEXT_GATES if gates is None else gates:
        gate = GATES[name]
        if gate.sign is not None and (why := gate.sign(before, after, target)):
            yield Gated(name, f"{gate.words}: {why}")


def _changed(before: Pair, after: Pair, target: Target) -> Iterator[tuple[str, str, str]]:
    """(side, text before, text after) of what a rewrite changed; an answer first."""
    if after.response != before.response:
        yield "answer", before.response, after.response
    if target == "instruction" and after.instruction != before.instruction:
        yield "instruction", before.instruction, after.instruction


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(without_marks(text))]


def _quoted(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return f'"{text[: most - 1]}…"' if len(text) > most else f'"{text}"'


# -- cut off ------------------------------------------------------------------------------------

_NO_LAST_WORDS = """
a an the and or but nor of to with without in on at for from by as into than that which who whose where when
while because if is are was were be been has have had will would can could should may might must its their
your our his her my this these those such very und oder aber der die das ein eine mit von zu y o el la los de
con para que et ou le les un une avec pour
"""
_OPEN_ENDED = frozenset(_NO_LAST_WORDS.split())
_ENDS = ".!?。！？…؟।"
_CLOSING = "\"'”’»)]}*_`"
_BULLET = re.compile(r"\s*(?:[-*•]|\(?\d{1,2}[.):])\s*")
_BEGUN = re.compile(r"[^\W\d_][.!?]\s+(?:The|A|An|This|These|In|It|And|For|If)(?:\s+[^\W\d_]+){0,2}$")
_STATEMENT = re.compile(
    r"[=(){}\[\]<>+\\|$#@`]|\b[A-Z]{4,}\b|[^\W_]\.[^\W_]|^\s*(?:return|import|using|break|continue|let|var|int|use)\b"
)
"""A line of SQL, C and their like, which a semicolon ends."""
_LETTER = re.compile(r"\b[A-Z]$")  # what names an option, a grade, a note or a vitamin is no article
_SENTENCE = 8  # words of a last line that can be a sentence


def _cut_off(before: Pair, after: Pair, target: Target) -> str:
    for side, old, new in _changed(before, after, target):
        if (why := _ends_in_the_middle(new, side)) and not _ends_in_the_middle(old, side):
            return f"the new {side} {why}"
    return ""


def _ends_in_the_middle(text: str, side: str) -> str:
    text = text.rstrip()
    lines = text.splitlines()
    if not lines:
        return ""
    last = lines[-1]
    if text.count("```") % 2:
        return "has a code block that is never closed"
    if "```" in text and last.strip().endswith("```"):
        return ""
    # Alone it may be what was asked for: "9." is a number.
    if _BULLET.fullmatch(last) and len(lines) > 1:
        return f"ends with an empty list item {_quoted(last)}"
    words = _words(last)
    tail = _quoted(" ".join(last.split()[-4:]))
    if last[-1] in ",(-–—&" or (side == "answer" and last[-1] == ":"):
        return f"ends with {tail}"
    if last[-1] == ";" and not _STATEMENT.search(last):
        return f"ends with {tail}"
    if words and words[-1] in _OPEN_ENDED and last[-1].isalnum() and not _LETTER.search(last):
        return f"ends with {tail}"
    if _BEGUN.search(last):
        return f"ends with a sentence that was just begun {tail}"
    if text[0] == '"' and text.count('"') == 1 and last[-1].isalnum():
        return "opens a quotation that is never closed"
    if side == "answer" and _half_a_sentence(text, last, words):
        return f"ends in half a sentence {tail}"
    return ""


def _half_a_sentence(text: str, last: str, words: list[str]) -> bool:
    """A last line as long as a sentence, without an end, in a text whose other lines have ends."""
    if len(words) < _SENTENCE or last.rstrip(_CLOSING)[-1:] in (*_ENDS, ":") or not last[-1].isalnum():
        return False
    if not last.rsplit(maxsplit=1)[-1].isalpha():  # an address, a hashtag, a number
        return False
    lines = [line for line in text.splitlines()[:-1] if len(_words(line)) >= _SENTENCE]
    if _BULLET.match(last):  # items of a list are held against each other
        lines = [line for line in lines if _BULLET.match(line)] or lines
    finished = sum(line.rstrip().rstrip(_CLOSING)[-1:] in tuple(_ENDS) for line in lines)
    within = len(re.findall(rf"[^\W\d_]{{2}}[{_ENDS}]\s", last))  # what ends one letter is an initial
    return within > 0 or (finished > len(lines) / 2 if lines else False)


# -- talk about the task ------------------------------------------------------------------------

_TEXT = r"(?:instructions?|answers?|responses?)"
_OURS = r"(?:new|better|improved|revised|rewritten|corrected|original|previous|given|updated|alternative)"
_BETTER = r"(?:more|most) (?:precise|concise|specific|detailed|complete|clear|helpful|accurate|relevant)"
_MARKERS = re.compile(
    rf"\[[^\]\n]{{0,20}}\b(?:{_TEXT}|critici[sz]m|critique)\b[^\]\n]{{0,10}}\]|\[/?\s*end\s*\]"
    r"|###\s*(?:instruction|response|input|criticism)"
    rf"|^\W{{0,3}}(?:critici[sz]m|critique|(?:{_OURS}) {_TEXT})\W{{0,3}}:",
    re.IGNORECASE | re.MULTILINE,
)
"""Markers of the question to the teacher, and what models make of them."""
_PROTOCOL = re.compile(
    rf"\b(?:an?|the|this|your|our|my|another|these) (?:{_OURS} |{_BETTER} )(?:and \w+ )?{_TEXT}\b"
    rf"|\b(?:good|better|best|correct) (?:way to answer|answers? to (?:this|the|your)|(?:answers?|responses?) (?:would|should|could))\b"
    r"|\b(?:the|this) answer (?:is|was) (?:indeed|correct|incorrect|already|not found|too|clear|vague|wrong|well|very)\b"
    r"|\bthe answer (?:that )?(?:i|you) (?:gave|give|wrote|write|provided?)\b"
    r"|\bthis (?:answer|response|edit|instruction|improvement|correction)\b"
    r"|\b(?:response|answer)s? to your (?:query|request|question|text)\b|\bcompleted your feedback\b"
    r"|\b(?:mak|improv|clarify)(?:e|es|ing)? (?:your|this|the|my) (?:new )?(?:answer|response|instruction)s?\b"
    r"|\b(?:edit|rewrit|rephras|correct|improv)(?:e|es|ing|ed)? (?:your|this|the) (?:previous |original |given )?(?:answer|response|instruction)s?\b"
    r"|\b(?:your|my) (?:previous |original )?(?:answer|response|explanation|edit|feedback) (?:is|was|has|had|contain|highlight|provide|"
    r"lack|need|should|could|would|more|included?)s?(?:ed)?\b"
    r"|^\W*you(?:'|’)?re (?:absolutely |completely )?(?:right|correct)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""What is said about a text that is being rewritten, and hardly ever in one."""
_TALK = re.compile(
    r"\b(?:the|this) (?:instructions?|responses?|prompt)\s+(?:is|are|was|were|has|have|does|do|could|should|would|can|"
    r"needs?|lacks?|provides?|asks?|fails?|gives?|says?|seems?|requires?|must|contains?|includes?)\b"
    r"|\bthe answer\s+(?:could|should|would|lacks?|fails?|provides?|needs?|has)\b"
    r"|\b(?:this|your) (?:type of )?critici[sz]m\b|\ban? critici[sz]m can\b"
    r"|\b(?:rewrit|rephras|edit)(?:e|ing|ed)\b.{0,40}\b(?:clearer|clarity|concise|sentences?|answer|text)\b",
    re.IGNORECASE,
)
"""What an answer may say where its own subject is texts: such subjects stand in the instruction already."""


def _about_the_task(before: Pair, after: Pair, target: Target) -> str:
    whole = "\n".join(before.texts)
    for side, old, new in _changed(before, after, target):
        for pattern, allowed in ((_MARKERS, old), (_PROTOCOL, old), (_TALK, whole)):
            match = pattern.search(new)
            if match and not pattern.search(allowed):
                return f"the new {side} says {_quoted(match[0].strip())}"
    return ""


# -- another language ---------------------------------------------------------------------------

# The commonest words of languages in Latin script that the others do not have.
_COMMON = {
    "English": "the and of is are to with that this it you for was be your not have they what how where who why so by",
    "German": "der die das und ist nicht ein eine zu den mit von sich auf für im dem auch wie werden",
    "Spanish": "el los las y es una por con para del se que su como más pero lo está muy",
    "French": "le les et est une des dans du pour qui sur pas avec plus nous vous sont cette aux",
    "Italian": "il di che è per una non sono con si della gli nel più anche come dei alla questo",
    "Portuguese": "os não uma para com do da em é um mais dos das você ser são pelo ao",
    "Dutch": "het een van en niet dat zijn op te voor met ook aan er maar wordt naar bij",
    "Swedish": "och att det som en på är av för inte med den ett till har de om kan",
    "Polish": "nie jest się na że do jak ale oraz czy dla przez tym są po jego od",
    "Turkish": "ve bir bu için ile çok daha olarak gibi ne değil var kadar sonra olan",
    "Indonesian": "yang dan di untuk dengan dari ini itu adalah pada tidak dalam akan juga ke",
}
_SCRIPTS = (
    ("Cyrillic", "\u0400", "\u052f"),
    ("Greek", "\u0370", "\u03ff"),
    ("Hebrew", "\u0590", "\u05ff"),
    ("Arabic", "\u0600", "\u06ff"),
    ("Devanagari", "\u0900", "\u097f"),
    ("Thai", "\u0e00", "\u0e7f"),
    ("Japanese", "\u3040", "\u30ff"),
    ("Chinese", "\u4e00", "\u9fff"),
    ("Korean", "\uac00", "\ud7af"),
)
_SCRIPT_NAMES = {name for name, _, _ in _SCRIPTS}
_ENOUGH = 3  # common words that a language is known by


_LANGUAGES_OF: dict[str, tuple[str, ...]] = {
    word: tuple(language for language, words in _COMMON.items() if word in words.split())
    for words in _COMMON.values()
    for word in words.split()
}


COMMON_WORDS = _OPEN_ENDED | _LANGUAGES_OF.keys()
"""Words that say nothing of a text's subject."""


def language_of(text: str) -> str:
    """The language of a text in Latin script by its commonest words, or its script; "" where that is not clear."""
    if not text.isascii():
        scripts = Counter(
            name
            for sign in text
            if sign >= "\u0370"
            for name, first, last in _SCRIPTS
            if first <= sign <= last
        )
        name, count = next(iter(scripts.most_common(1)), ("", 0))
        if count > sum(sign.isalpha() for sign in text) / 2:
            return "Japanese" if scripts["Japanese"] > 2 else name
    words = _words(_ADDRESS.sub(" ", text))
    counts = Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
    ranked = [*counts.most_common(2), ("", 0), ("", 0)]
    (name, most), (_, second) = ranked[0], ranked[1]
    return name if most >= _ENOUGH and most >= 2 * second else ""


def pair_language(pair: Pair) -> str:
    """The language of a pair's response, or of all its texts where the response alone is too short to say."""
    return language_of(pair.response) or language_of(" ".join(pair.texts))


def _other_language(before: Pair, after: Pair, target: Target) -> str:
    for side, old, new in _changed(before, after, target):
        now = language_of(new)
        language_before = language_of(old) or language_of(" ".join(before.texts))
        if not language_before and now in _SCRIPT_NAMES and _is_latin(old):
            language_before = "in Latin script"
        if language_before and now and language_before != now and not _asks_for(now, after.instruction):
            return f"the {side} was {language_before} and is {now}"
    return ""


def _is_latin(text: str) -> bool:
    letters = [sign for sign in text if sign.isalpha()]
    return bool(letters) and all(sign < "\u0250" for sign in letters)


_ALSO = {
    "English": "englisch inglés anglais inglese",
    "German": "deutsch alemán allemand",
    "Spanish": "español castilian spanisch",
    "French": "français französisch francés",
    "Italian": "italiano italienisch",
    "Portuguese": "português",
    "Dutch": "nederlands flemish",
    "Swedish": "svenska",
    "Polish": "polski",
    "Turkish": "türkçe",
    "Indonesian": "bahasa",
    "Cyrillic": "russian ukrainian bulgarian serbian macedonian belarusian kazakh kyrgyz mongolian tajik русск українськ",
    "Arabic": "persian farsi urdu pashto kurdish عرب فارسی اردو",
    "Hebrew": "yiddish עברית",
    "Devanagari": "hindi marathi nepali sanskrit हिन्दी हिंदी",
    "Japanese": "kanji hiragana katakana 日本語",
    "Chinese": "mandarin cantonese kanji 中文 汉语 漢語",
    "Korean": "hangul 한국어",
}
"""What else a language, or the languages of a script, are asked for by."""
_NOT_TOLD = [
    "danish",
    "norwegian",
    "icelandic",
    "catalan",
    "galician",
    "romanian",
    "czech",
    "slovak",
    "slovene",
    "slovenian",
    "croatian",
    "bosnian",
    "hungarian",
    "finnish",
    "estonian",
    "latvian",
    "lithuanian",
    "albanian",
    "vietnamese",
    "tagalog",
    "filipino",
    "swahili",
    "malay",
    "afrikaans",
    "latin",
    "welsh",
    "irish",
    "esperanto",
]
"""Languages that are taken for one of those above, by the words that they share with it."""


def _asks_for(language: str, instruction: str) -> bool:
    asked = instruction.casefold()
    return any(name in asked for name in (language.casefold(), *_ALSO.get(language, "").split(), *_NOT_TOLD))


# -- refusal ------------------------------------------------------------------------------------

_SORRY = re.compile(
    r"\b(?:i(?:'|’)?m|i am) (?:sorry(?! to hear\b| (?:for|about) your\b| (?:that )?you\b)|afraid|unable|not able)\b",
    re.IGNORECASE,
)
_ASKS_TO_BE_SORRY = re.compile(
    r"\b(?:apolog|sorry|regret|declin|refus|excus|reject|turn(?:ing)? down|resign|cancel)", re.IGNORECASE
)
"""A letter that is asked for may well say so to somebody else."""
_REFUSAL = re.compile(
    r"\b(?:i|we) (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|(?:am|are) unable to) (?:\w+ )?"
    r"(?:answer|provide|give|help|assist|fulfil|comply|access|write|generate|create|see|offer|tell|do)\b"
    r"|\b(?:as|i(?:'|’)?m|i am) an? (?:ai|artificial|large language|language)\b"
    r"|\b(?:please|could you) (?:provide|give|specify|share|tell me|clarify)\b.{0,60}"
    r"\b(?:more|additional|further) (?:context|information|details)\b"
    r"|\b(?:is|was) not (?:found|mentioned|provided) (?:in|on|by) the (?:provided |given )?(?:text|input|question|prompt)\b",
    re.IGNORECASE,
)
_BEGINNING = 160  # characters in which a refusal says so


def _refusal(before: Pair, after: Pair, target: Target) -> str:
    may_be_sorry = _ASKS_TO_BE_SORRY.search(f"{after.instruction}\n{after.input}") is not None
    patterns = (_REFUSAL,) if may_be_sorry else (_SORRY, _REFUSAL)
    for side, old, new in _changed(before, after, target):
        match = next((m for pattern in patterns if (m := pattern.search(new[:_BEGINNING]))), None)
        if match and not (_SORRY.search(old) or _REFUSAL.search(old)):
            return f"the new {side} says {_quoted(match[0])}"
    return ""


# -- repetition ---------------------------------------------------------------------------------

_GRAM = 5
_REPEATED = 0.4


def repeated_share(text: str) -> float:
    """Share of the words of a text that stand in a run of five words which has stood there before; addresses and HTML's
    tags, whose parts are the same in each, are none."""
    words = _words(_ADDRESS.sub(" ", _TAG.sub(" ", text)))
    seen_grams: set[tuple[str, ...]] = set()
    is_repeated = [False] * len(words)
    for start in range(len(words) - _GRAM + 1):
        gram = tuple(words[start : start + _GRAM])
        if gram in seen_grams:
            is_repeated[start : start + _GRAM] = [True] * _GRAM
        seen_grams.add(gram)
    return sum(is_repeated) / len(words) if words else 0.0


def _repetition(before: Pair, after: Pair, target: Target) -> str:
    for side, old, new in _changed(before, after, target):
        share = repeated_share(new)
        if share > _REPEATED and share > 2 * repeated_share(old):
            return f"{share:.0%} of the new {side} stood in it before"
    return ""


# -- a copy of the prompt -----------------------------------------------------------------------

_COPIED = 0.5


def copied_share(text: str, source: str) -> float:
    """Share of the words of a text that stand in a run of five words which ``source`` has too."""
    words, source_words = _words(text), _words(source)
    size = min(_GRAM, len(words))
    if not size:
        return 0.0
    grams = {tuple(source_words[i : i + size]) for i in range(len(source_words) - size + 1)}
    copied = [False] * len(words)
    for start in range(len(words) - size + 1):
        if tuple(words[start : start + size]) in grams:
            copied[start : start + size] = [True] * size
    return sum(copied) / len(words)


def _prompt_copy(before: Pair, after: Pair, target: Target) -> str:
    if after.response == before.response:
        return ""
    if len(_words(after.response)) < _SENTENCE:
        return ""  # a short answer may well be a word of its question
    share = copied_share(after.response, f"{after.instruction}\n{after.input}")
    share_before = copied_share(before.response, f"{before.instruction}\n{before.input}")
    if share > _COPIED and share > 2 * share_before:
        return f"{share:.0%} of the new answer are words of its prompt"
    return ""


# -- a lost input -------------------------------------------------------------------------------

_POINTS = re.compile(
    r"\b(?:the|this|these|each)\s+(?:following|given|provided|above|below)\s+"
    r"(?:text|passage|paragraph|sentence|article|code|function|list|review|numbers?|words?|email|e-mail|item|news|temperature)s?\b"
    r"|\b(?:text|passage|paragraph|sentence|article|code|list|review|numbers?|words?)s?\s+(?:above|below)\b",
    re.IGNORECASE,
)


def _lost_input(before: Pair, after: Pair, target: Target) -> str:
    if target != "instruction" or after.instruction == before.instruction:
        return ""
    if before.input.strip() and not after.input.strip():
        instruction_words = set(_words(after.instruction))
        kept = [word in instruction_words for word in _words(before.input)]
        if kept and sum(kept) < len(kept) / 2:
            return "the input is gone from the new instruction"
    match = _POINTS.search(after.instruction)
    if match and not after.input.strip() and not _POINTS.search(before.instruction):
        behind = after.instruction[match.end() :]
        if len(_words(behind)) < 5:
            return f"the new instruction points to {_quoted(match[0])}, which is not there"
    return ""


GATES: dict[str, Gate] = {
    "cut_off": Gate("cut off", _cut_off),
    "about_the_task": Gate("talk about the task", _about_the_task),
    "language": Gate("another language", _other_language),
    "refusal": Gate("a refusal", _refusal),
    "repetition": Gate("repetition", _repetition),
    "prompt_copy": Gate("a copy of the prompt", _prompt_copy),
    "lost_input": Gate("lost input", _lost_input),
    "coherence": Gate("an answer to something else"),  # pipeline/coherence.py
    "rater": Gate("the rater prefers the old answer"),  # evaluation/rater.py
}
"""By key of the recipe's section ``gates``, in the order in which they are asked."""
TEXT_GATES = tuple(name for name, gate in GATES.items() if gate.sign is not None)
"""Those that look at the texts alone."""
