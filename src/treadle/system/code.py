"""The user's own code: its files, and the function that made a trainer."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType

from treadle.core.places import is_users


def own_modules() -> dict[Path, ModuleType]:
    """The modules that belong to no installed distribution, by their Python files, sorted."""
    found = {_plain(Path(module.__file__)): module for module in list(sys.modules.values()) if is_own(module) and module.__file__}
    return {path: found[path] for path in sorted(found) if path.is_absolute() and path.is_file()}  # some only pretend to be files


def _plain(path: Path) -> Path:
    """The path without ``..``: that of a script is as it was typed."""
    return path.resolve() if ".." in path.parts else path


def is_own(module: ModuleType) -> bool:
    """Whether a module comes from a Python file that belongs to no installed distribution."""
    name = getattr(module, "__file__", None)
    return isinstance(name, str) and name.endswith(".py") and is_users(name)


def code_digest() -> str:
    """A digest of their names and contents: another one after any edit."""
    files = []
    for path in own_modules():
        with suppress(OSError):  # imported from a place that is gone
            files.append((path.name, path.read_bytes()))
    digest = hashlib.sha256()
    for name, content in sorted(files):  # by name: the same files elsewhere are the same code
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def maker(frame: FrameType, kind: str) -> str:
    """The function that a frame runs, as ``file:function``, where it can be called again to make the same thing.

    Args:
        frame: the frame of a call.
        kind: name of the class that the function must be annotated to return.

    Returns:
        empty where it is no such function of a module.
    """
    code, path = frame.f_code, Path(frame.f_code.co_filename)
    function = frame.f_globals.get(code.co_name)
    returns = getattr(function, "__annotations__", {}).get("return", "")
    name = returns if isinstance(returns, str) else getattr(returns, "__name__", "")
    if getattr(function, "__code__", None) is not code or name.rpartition(".")[2] != kind or not path.is_file():
        return ""
    return f"{path.resolve()}:{code.co_name}"
