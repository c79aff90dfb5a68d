"""Which device, and whether its kernels give the same bits twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from treadle.core.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device a config asks for; it is never silently another one.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: the device does not exist here; what is available is listed.
    """
    available = _available()
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"machine.device: {name!r} is no device; say auto, cpu, cuda, cuda:1 or mps") from None
    indexed = str(torch.device(device.type, device.index or 0)) if device.type == "cuda" else device.type
    if indexed not in available:
        raise ConfigError(f"machine.device: {name!r} is not available here; available: {', '.join(reversed(available))}")
    return torch.device(indexed)


def check_graphs(asked: bool, device: torch.device) -> None:
    """Raise where CUDA graphs are asked for on a device without them.

    Raises:
        ConfigError: the device is no CUDA GPU.
    """
    if asked and device.type != "cuda":
        raise ConfigError(f"machine.cuda_graph: True needs a CUDA GPU, and this run is on {device}; say False")


def _available() -> list[str]:
    """Devices of this machine, the preferred one first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


@contextmanager
def deterministic_kernels(asked: bool) -> Iterator[None]:
    """Deterministic kernels while the run goes on; torch's settings are put back after it.

    An operation that has no deterministic kernel warns, once, and goes on.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory is a debugging aid that costs time; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark = before[3:]
