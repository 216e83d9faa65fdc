"""The student's scores: spans, their losses, IFD and r-IFD."""

from srtui.measures import Metric, SpanLoss, ifd, perplexity, rifd, share_at_or_over_one
from srtui.student.generation import Generator
from srtui.student.head import Head, examine
from srtui.student.model import Quantization, Student, StudentSource, compute_dtype
from srtui.student.positions import alone_beyond, legs
from srtui.student.scorer import Scorer, open_scorer
from srtui.student.span_builder import SpanBuilder
from srtui.student.spans import Invalid, Span

__all__ = [
    "Generator",
    "Head",
    "Invalid",
    "Metric",
    "Quantization",
    "Scorer",
    "Span",
    "SpanBuilder",
    "SpanLoss",
    "Student",
    "StudentSource",
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
