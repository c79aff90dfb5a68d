"""Whose code a file is: Python's own, an installed distribution's, Treadle's, or the user's."""

from __future__ import annotations

import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_STANDARD = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]


def is_installed(file: str) -> bool:
    """Whether it belongs to an installed distribution."""
    path = Path(file)
    return any(path.is_relative_to(place) for place in _INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def is_standard(file: str) -> bool:
    """Whether it is Python's own."""
    return file.startswith("<frozen ") or (any(Path(file).is_relative_to(place) for place in _STANDARD) and not is_installed(file))


def is_users(file: str) -> bool:
    """Whether it is neither of these, nor Treadle's."""
    return not (is_standard(file) or is_installed(file) or Path(file).is_relative_to(PACKAGE))
