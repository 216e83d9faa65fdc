"""What the sections of a recipe are made of: types with their limits, and a key with its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
# What a 32-bit integer holds: llama.cpp takes no more, and SQLite's columns would take 64 bits.
MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Quantization = Literal["nf4", "bf16", "int8", "f32", "gguf"]


class Section(BaseModel):
    """A table of a recipe: unknown keys are refused, and a value once read is not changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def described(default: Any, description: str, *, change: str = "", unit: str = "", source: str = "") -> Any:
    """A key with all that a reader of the reference wants to know.

    Args:
        default: its value where a recipe does not give it; ... where a recipe must.
        description: what it does; the first sentence stands alone in tables.
        change: when to give it another value.
        unit: of the value, where it has one.
        source: where the default is from: the paper (Li et al. 2024), a library, or srtui's own choice.
    """
    extra = {name: text for name, text in (("change", change), ("unit", unit), ("source", source)) if text}
    return Field(default, description=description, json_schema_extra=extra)  # type: ignore[arg-type]
