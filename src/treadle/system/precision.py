"""Number formats: autocast for the forward pass, a loss scaler for fp16, TF32 for products on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from treadle.core.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the forward pass computes.

    Args:
        name: "fp32", "tf32", "bf16" or "fp16".
        device: where.

    Raises:
        ConfigError: the device has no such format.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "tf32" and device.type != "cuda":
            raise ConfigError(f"machine.precision: 'tf32' is a format of CUDA GPUs, and this run is on {device}; say fp32 or bf16")
        self.name = name
        self.dtype = _DTYPES.get(name)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass; does nothing in fp32."""
        if self.dtype is None:
            return self.products()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def products(self) -> AbstractContextManager[object]:
        """The context of a whole run: matrix products in TF32, where that is the format."""
        return _tf32_products() if self.name == "tf32" else nullcontext()

    def full(self) -> AbstractContextManager[object]:
        """The context of the backward pass: autocast is off, as torch advises."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)


@contextmanager
def _tf32_products() -> Iterator[None]:
    """Products of fp32 matrices in TF32; torch's setting is put back. Convolutions are computed so by default."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
