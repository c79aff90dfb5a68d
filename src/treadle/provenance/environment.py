"""The environment: what a result may depend on besides code, config and data."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from treadle.core.places import is_users
from treadle.provenance.secrets import public

_RELEVANT = re.compile(
    r"(CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|GLOO|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|HIP|ROCR|HSA|XLA|"
    r"PYTHON|ATEN|HF|TRANSFORMERS|TOKENIZERS|SLURM|TREADLE)\w*|LD_PRELOAD|LD_LIBRARY_PATH|MALLOC_\w+|LANG|LC_ALL|TZ|OAR_JOB_ID|PBS_JOBID|LSB_JOBID"
)
_MODULE = re.compile(r"(\w+(?:/\w+)*)(?:\.[\w-]+)?\.(?:py|so|pyd)(?:,|$)")
"""A line of a distribution's list of files that is a module."""
_NOT_OURS = re.compile(r"TREADLE_STAGE|SLURM_\w*(?:CONF|KEY|COOKIE|TMPDIR)\w*")


def environment(device: torch.device) -> dict[str, Any]:
    """Python, packages, processors and variables, as JSON.

    Args:
        device: what the run computes on.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpus": [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())] if device.type == "cuda" else [],
        "driver": _driver(),
        "torch_build": f"{torch.__version__}, CUDA {torch.version.cuda}, {torch.backends.cpu.get_cpu_capability()}",
        "variables": public({name: value for name, value in sorted(os.environ.items()) if _is_relevant(name)}),
        "packages": packages(),
        "imported": imported(),
    }


@cache
def packages() -> dict[str, str]:
    """Every installed distribution, with its version."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        with suppress(Exception):  # one that is half removed
            name, version = _named(distribution)
            found.setdefault(name, version)
    return dict(sorted(found.items()))


def imported() -> list[str]:
    """The distributions that something is imported from, by their names in `packages`."""
    modules = {name for name in sys.modules if _is_installed(name)} - sys.stdlib_module_names
    return sorted(name for name in packages() if _is_module(name.replace("-", "_")) or not modules.isdisjoint(_modules_of(name)))


def _is_relevant(name: str) -> bool:
    return bool(_RELEVANT.fullmatch(name)) and not _NOT_OURS.fullmatch(name)


def _named(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, from the name of its folder where that says both: reading its metadata takes a thousand times as long."""
    folder = Path(str(getattr(distribution, "_path", ""))).name
    if match := re.fullmatch(r"(.+)-([^-]+)\.dist-info", folder):
        return match[1].replace("_", "-").lower(), match[2]
    return distribution.metadata["Name"].replace("_", "-").lower(), distribution.version


@cache
def _modules_of(name: str) -> frozenset[str]:
    """The modules and packages that a distribution brings, by their dotted names, without those below others.

    Several distributions may have parts in one folder without an ``__init__.py``, such as `google`: that is the module of none.
    """
    with suppress(Exception):
        distribution = metadata.distribution(name)
        lines = (distribution.read_text("RECORD") or "").splitlines()
        if not lines:
            return frozenset((distribution.read_text("top_level.txt") or "").split())
        files = [match[1] for line in lines if (match := _MODULE.match(line))]
        packages = {file.removesuffix("/__init__") for file in files if file.endswith("/__init__")}
        return frozenset(_highest(file, packages).replace("/", ".") for file in files)
    return frozenset()


def _highest(file: str, packages: set[str]) -> str:
    """The outermost package around a module; itself where there is none."""
    parts = file.split("/")
    return next((above for count in range(1, len(parts)) if (above := "/".join(parts[:count])) in packages), file)


def _is_module(name: str) -> bool:
    """Whether it is imported, and more than a folder."""
    return bool(getattr(sys.modules.get(name), "__file__", None))


def _is_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and not is_users(file)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    return None
