"""`treadle new NAME`: a project that runs at once."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from treadle.scaffold import create


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("folder", metavar="NAME", help="the project's folder: new, or empty")


def run(options: argparse.Namespace) -> int:
    """Make it, and say what to do next."""
    folder = Path(options.folder)
    for path in create(folder):
        print(f"  {path.relative_to(folder)}")
    print(f"\n{folder} is ready:\n\n  cd {shlex.quote(str(folder))}\n  {_python(folder)} src/main.py      # trains, tests, draws the curves\n")
    print("src/config.py is the only file to change between experiments; README.md says where your data and your model go.")
    return 0


def _python(folder: Path) -> str:
    """How to call this Python from the project's folder."""
    found = shutil.which("python")
    if found is not None and Path(found).absolute().parent == Path(sys.executable).parent:
        return "python"
    return shlex.quote(os.path.relpath(sys.executable, folder))
