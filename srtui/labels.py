"""What the faces call things: the names of figures, and sentences about how a text ended.

The command line, the dashboard and the report take their words from here, so that one quantity has one name; the
store, which computes the figures (``srtui.store.figures``), knows no words.
"""

from __future__ import annotations

from srtui.store.endings import GenerationEnding

LABELS = {
    "samples": "samples",
    "held out": "held out",
    "kept": "kept",
    "overruled": "overruled by a person",
    "ifd before": "IFD of the original",
    "ifd": "IFD of the final text",
    "rifd before": "r-IFD before the new answer",
    "rifd": "r-IFD of the final text",
    "kept ifd": "IFD of what is kept",
    "kept rifd": "r-IFD of what is kept",
    "trained on": "trained on",
    "changed since": "choice changed since the training",
    "step loss": "loss of a step",
    "step seconds": "in steps",
    "step speed": "tokens/s in steps",
    "stage seconds": "whole stage",
}
"""By quantity, the words that all faces use for it."""


def ending_words(ending: GenerationEnding) -> str:
    """One line about all segments of a generation."""
    if ending.segments is None:
        last = _finish_words(ending.finish)
        return f"the last part {last}; of the others it is not known (an older srtui wrote it)"
    words = [f"{part} {_finish_words(how)} after {tokens:,} tokens" for part, how, tokens in ending.segments]
    return ", ".join(words) or f"nothing was written: {ending.finish}"


def _finish_words(finish: str) -> str:
    if finish == "length":
        return "cut off at its limit"
    if finish == "repetition":
        return "cut off where it repeats itself"
    kind, _, marker = finish.partition(":")
    return f"ended by {marker}" if kind == "stop" else "ended by itself" if finish == "end" else finish
