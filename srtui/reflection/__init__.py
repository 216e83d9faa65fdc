"""What the teacher is asked, and what its words mean. Knows no llama.cpp and no student."""

from srtui.reflection.criteria_files import Criteria, load_criteria
from srtui.reflection.parsing import OwnWording, Parsed, Unparsed, parse_free, parse_guided
from srtui.reflection.prompt import ReflectionPrompt, Rewrite

__all__ = [
    "Criteria",
    "OwnWording",
    "Parsed",
    "ReflectionPrompt",
    "Rewrite",
    "Unparsed",
    "load_criteria",
    "parse_free",
    "parse_guided",
]
