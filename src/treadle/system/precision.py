"""Number formats: autocast for the forward pass, a loss scaler for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How the forward pass computes.

    Args:
        name: "fp32", "bf16" or "fp16".
        device: where.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.dtype = _DTYPES.get(name)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass; does nothing in fp32."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def full(self) -> AbstractContextManager[object]:
        """The context of the backward pass: autocast is off, as torch advises."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)
