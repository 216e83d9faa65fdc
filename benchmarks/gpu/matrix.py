"""The bfloat16 matrix-product ceiling of this device: ``python -m benchmarks.gpu.matrix SIDE``.

Prints {"flops": operations a second} of square products, the best of five series.
"""

from __future__ import annotations

import json
import sys
import time


def matrix_flops(side: int) -> float:
    """Operations a second of products of two (side, side) bfloat16 matrices, on the GPU where there is one."""
    import torch

    gpu = torch.cuda.is_available()
    matrix = torch.randn(side, side, device="cuda" if gpu else "cpu", dtype=torch.bfloat16)
    best = 0.0
    for series in range(6):
        began = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        if gpu:
            torch.cuda.synchronize()
        if series:  # the first also sets things up
            best = max(best, 10 * 2 * side**3 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    print(json.dumps({"side": int(sys.argv[1]), "flops": matrix_flops(int(sys.argv[1]))}))
