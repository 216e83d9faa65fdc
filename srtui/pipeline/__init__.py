"""A run, from its recipe to a tuned student: ``prepare`` makes it, ``Engine`` works on it.

``engine`` is the loop; ``reflect``, ``choose`` and ``train`` are its stages.
"""

from srtui.pipeline.engine import Engine
from srtui.pipeline.prepare import import_file, prepare
from srtui.pipeline.template_check import compare_templates
from srtui.pipeline.tuned import next_round
from srtui.pipeline.watch import peak_memory_mb

__all__ = [
    "Engine",
    "compare_templates",
    "import_file",
    "next_round",
    "peak_memory_mb",
    "prepare",
]
