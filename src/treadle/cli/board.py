"""`treadle board [DIR]`: TensorBoard on a folder of runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from treadle.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("dir", metavar="DIR", nargs="?", default="results", help="a folder of runs, or one run (default: results)")
    parser.add_argument("--port", type=int, default=6006, help="0 takes any that is free (default: 6006)")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {options.dir!r}; give the folder that holds your runs: treadle board DIR")
    if find_spec("tensorboard") is None:
        raise UsageError("tensorboard is not installed: pip install 'treadle[tensorboard]'")
    if next(folder.rglob("events.out.tfevents*"), None) is None:
        raise UsageError(f"no run under {options.dir!r} has TensorBoard files; runs write them where tensorboard is installed")
    print("Ctrl-C ends it.", flush=True)
    command = ["-m", "tensorboard.main", "--logdir", str(folder), "--load_fast=false", "--port", str(options.port)]
    with subprocess.Popen([sys.executable, *command]) as server:
        with suppress(KeyboardInterrupt):  # the server heard it too
            return server.wait()
        server.terminate()
    return 0
