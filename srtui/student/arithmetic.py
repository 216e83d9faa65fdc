"""How a student's products are computed: the same on every machine, and independent of what else is
in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_HALF = ("torch.bfloat16", "torch.float16")


def use_one_arithmetic(model: Any) -> None:
    """Give the layers of a quantized model one arithmetic: weights dequantised to the compute type,
    then an ordinary product. Models without such layers stay as they are.

    bitsandbytes does otherwise in two places. On CPUs with AVX-512 bf16 it repacks a 4-bit layer the
    first time that it runs outside of training: the scale of each block is rounded to bfloat16, so
    scored, trained and merged weights would no longer be the same, and layers whose input width is no
    multiple of the block size, or whose output width is none of 32, cannot run. And its 8-bit product
    (LLM.int8(), Dettmers et al. 2022) rounds activations to 8 bits too, leaving out every column in
    which any row of the batch has an outlier, so that a text's loss depends on the texts beside it:
    with SmolLM2-135M in float32 by up to half a nat a token.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif type(module) is bnb.nn.Linear8bitLt:
            module.__class__ = _dequantising_linear()


def _dequantising_linear() -> type:
    """A Linear8bitLt that rounds its weights only. Its gradient dequantises them again, so that no
    layer's are kept."""
    import bitsandbytes as bnb
    from bitsandbytes.autograd._functions import MatMul8bitFp

    global _Dequantising  # noqa: PLW0603 - made once: bitsandbytes takes a second to import
    if _Dequantising is None:

        class DequantisingLinear(bnb.nn.Linear8bitLt):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                if self.weight.CB is not None:
                    self.init_8bit_state()
                bias = None if self.bias is None else self.bias.to(x.dtype)
                return MatMul8bitFp.apply(x, self.weight, None, bias, self.state)

        _Dequantising = DequantisingLinear
    return _Dequantising


_Dequantising: type | None = None


def _widened(module: Any, inputs: Any, output: Any) -> Any:
    """Some embeddings (ProphetNet's) answer with more than one tensor; those stay."""
    return output.float() if hasattr(output, "float") else None


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Forward passes compute in float32 from the weights as they are held, whatever their type: a
    comparison of two ways to compute the same then shows faults, and not rounding.

    Each module's 16-bit weights are made float32 while it runs, so this takes the memory of one
    module's weights and not of the model's. For trials; it is slow.
    """
    import torch

    def widen(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            v.float() if isinstance(v, torch.Tensor) and str(v.dtype) in _HALF else v for v in values
        )

    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                undo.callback(module.register_forward_hook(_widened).remove)
                continue
            if getattr(module, "compute_dtype", None) is not None:  # a 4-bit layer
                undo.callback(setattr, module, "compute_dtype", module.compute_dtype)
                module.compute_dtype = torch.float32
            narrow = [
                t
                for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))
                if str(t.dtype) in _HALF
            ]
            if not narrow:
                continue
            held = [t.data for t in narrow]

            def before(
                m: Any, inputs: tuple[Any, ...], tensors: Any = narrow, held: Any = held
            ) -> tuple[Any, ...]:
                for tensor, data in zip(tensors, held, strict=True):
                    tensor.data = data.float()
                return widen(inputs)

            def after(m: Any, inputs: Any, output: Any, tensors: Any = narrow, held: Any = held) -> None:
                for tensor, data in zip(tensors, held, strict=True):
                    tensor.data = data

            undo.callback(module.register_forward_pre_hook(before).remove)
            undo.callback(module.register_forward_hook(after, always_call=True).remove)
        yield
