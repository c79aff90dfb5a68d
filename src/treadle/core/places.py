"""Whose code a file is: Python's own, an installed distribution's, Treadle's, or the user's."""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def _below(*places: str | Path) -> tuple[str, ...]:
    return tuple({f"{place}{os.sep}" for place in places})


_STANDARD = ("<frozen ", *_below(sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))
_INSTALLED = _below(sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
_FOLDERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_OURS = _below(PACKAGE)


def is_installed(file: str) -> bool:
    """Whether it belongs to an installed distribution."""
    return file.startswith(_INSTALLED) or any(name in file for name in _FOLDERS)


def is_standard(file: str) -> bool:
    """Whether it is Python's own."""
    return file.startswith(_STANDARD) and not is_installed(file)


@cache
def is_users(file: str) -> bool:
    """Whether it is neither of these, nor Treadle's."""
    return not (is_standard(file) or is_installed(file) or file.startswith(_OURS))
