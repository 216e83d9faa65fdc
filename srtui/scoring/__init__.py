"""The student's scores: spans, their losses, IFD and r-IFD."""

from srtui.scoring.head import Head, examine
from srtui.scoring.ifd import SpanLoss, ifd, perplexity, rifd, share_at_or_over_one
from srtui.scoring.judge import Judge, Metric, open_scorer
from srtui.scoring.positions import alone_beyond, legs
from srtui.scoring.scorer import Scorer
from srtui.scoring.spans import Invalid, Span, SpanBuilder
from srtui.scoring.student import Quantization, Student, compute_dtype

__all__ = [
    "Head",
    "Invalid",
    "Judge",
    "Metric",
    "Quantization",
    "Scorer",
    "Span",
    "SpanBuilder",
    "SpanLoss",
    "Student",
    "alone_beyond",
    "compute_dtype",
    "examine",
    "ifd",
    "legs",
    "open_scorer",
    "perplexity",
    "rifd",
    "share_at_or_over_one",
]
