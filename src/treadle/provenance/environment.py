"""The environment: what a result may depend on besides code, config and data."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Iterator
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
    return {name: version for name, (version, _) in _installed().items()}


def imported() -> list[str]:
    """The distributions that something is imported from, by their names in `packages`."""
    return sorted(_owners(frozenset(_outermost())))


def _is_relevant(name: str) -> bool:
    return bool(_RELEVANT.fullmatch(name)) and not _NOT_OURS.fullmatch(name)


def _named(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, from the name of its folder where that says both: reading its metadata takes a thousand times as long."""
    folder = Path(str(getattr(distribution, "_path", ""))).name
    if match := re.fullmatch(r"(.+)-([^-]+)\.dist-info", folder):
        return match[1].replace("_", "-").lower(), match[2]
    return distribution.metadata["Name"].replace("_", "-").lower(), distribution.version


@cache
def _installed() -> dict[str, tuple[str, metadata.Distribution]]:
    """Version and files of every installed distribution, by name; of several by one name the first on the path counts."""
    found: dict[str, tuple[str, metadata.Distribution]] = {}
    for distribution in metadata.distributions():
        with suppress(Exception):  # one that is half removed
            name, version = _named(distribution)
            found.setdefault(name, (version, distribution))
    return dict(sorted(found.items()))


def _outermost() -> Iterator[tuple[str, str]]:
    """What is imported and in no other package: names, and files as lists of files have them.

    The user's own, which may be installed as a link, is known by its name alone.
    Several distributions may have parts in one folder without an ``__init__.py``, such as `google`: that is the module of none.
    """
    files = {name: file for name, module in list(sys.modules.items()) if isinstance(file := getattr(module, "__file__", None), str)}
    for name in files.keys() - sys.stdlib_module_names:
        if not any(name[:dot] in files for dot, letter in enumerate(name) if letter == "."):
            parts = Path(files[name]).parts
            length = 1 + name.count(".") + parts[-1].startswith("__init__.")
            yield name, "" if is_users(files[name]) else "/".join(parts[-length:])


@cache
def _owners(modules: frozenset[tuple[str, str]]) -> frozenset[str]:
    """The distributions that bring one of some modules. Lists of files are long, and from run to run it is the same modules."""
    names, files = {name for name, _ in modules}, {file for _, file in modules}
    found = (name for name, (_, files_of) in _installed().items() if name.replace("-", "_") in names or _brings(files_of, names, files))
    return frozenset(found)


def _brings(distribution: metadata.Distribution, names: set[str], files: set[str]) -> bool:
    with suppress(Exception):
        if record := distribution.read_text("RECORD"):
            return not files.isdisjoint(line.partition(",")[0] for line in record.splitlines())
        return not names.isdisjoint((distribution.read_text("top_level.txt") or "").split())
    return False


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
