"""The student's scores: spans, their losses, IFD and r-IFD."""

from srtui.scoring.ifd import SpanLoss, ifd, perplexity, rifd, share_at_or_over_one
from srtui.scoring.scorer import Scorer
from srtui.scoring.spans import Invalid, Span, SpanBuilder
from srtui.scoring.student import Student, compute_dtype

__all__ = [
    "Invalid",
    "Scorer",
    "Span",
    "SpanBuilder",
    "SpanLoss",
    "Student",
    "compute_dtype",
    "ifd",
    "perplexity",
    "rifd",
    "share_at_or_over_one",
]
