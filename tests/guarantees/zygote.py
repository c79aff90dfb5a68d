"""Runs of the program that start at once: a process that has imported everything forks a child for each.

A child is as fresh as a new process: a session of its own, default signals, generators seeded by chance, a single thread,
output to a file, warnings as errors. What it shares with its siblings is what they imported. It leaves without cleaning up
the interpreter, which takes longer than the run.

Commands and answers are lines of JSON.
"""

import gc
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

import treadle
from guarantees import program

PATIENCE_S = 120.0
"""A run takes a second; one that takes this long hangs."""


class Zygote:
    """Starts runs, one at a time, and kills them. A context: no process is left behind.

    A kill hits the main process only, as in life. Its loading workers notice within seconds, and may see the next attempt
    begin; `bury` ends those that are still there.

    Args:
        modules: what else the runs import; imported once.
    """

    def __init__(self, *modules: str) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "guarantees.zygote", *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._groups: list[int] = []

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self.bury()

    def run(self, name: str, folder: Path, *arguments: str, kill_after_s: float | None = None) -> int:
        """Run the program in a child.

        Args:
            name: of the case.
            folder: the run folder; the child's output goes to ``<folder>.out``.
            arguments: more for the program's command line.
            kill_after_s: when to kill -9 it, if it is still there.

        Returns:
            its exit code; -9 where it was killed.

        Raises:
            TimeoutError: it hangs.
        """
        return self._child({"output": f"{folder}.out", "arguments": [name, str(folder), *arguments]}, kill_after_s)

    def execute(self, words: Sequence[str], environment: Mapping[str, str], output: str) -> int:
        """Run another program in a child, as ``python -m module ...`` or ``python file.py ...`` would.

        Args:
            words: the command; its first word is Python.
            environment: all of its variables.
            output: the file that its output goes to.

        Returns:
            its exit code.
        """
        return self._child({"output": output, "words": list(words), "environment": dict(environment), "cwd": str(Path.cwd())})

    def _child(self, command: dict[str, Any], kill_after_s: float | None = None) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        child = self._answer()
        self._groups.append(child)
        patience = PATIENCE_S if kill_after_s is None else kill_after_s
        in_time = bool(select.select([self._process.stdout], [], [], patience)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        code = self._answer()
        if not in_time and kill_after_s is None:
            raise TimeoutError(f"{command} did not end within {patience:.0f} s")
        return code

    def bury(self) -> None:
        """End what killed runs have left: their loading workers."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._groups.clear()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts runs is gone")
        return int(json.loads(line))


def serve() -> dict[str, Any] | None:
    """Fork a child for each command, and answer with its process id, then with its exit code.

    Returns:
        in a child, its command; None where there are no more commands.
    """
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_fresh(command["output"])
            return dict(command)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _be_fresh(output: str) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    warnings.simplefilter("error")
    random.seed()
    np.random.seed()
    torch.seed()


def _warm_up() -> None:
    """Import what the program imports while it runs, without starting a thread: a fork would lose it."""
    usual = ("safetensors.torch", "tensorboard.compat.tensorflow_stub", "torch._dynamo", "torch.utils.tensorboard", "treadle.training")
    for module in (*usual, *sys.argv[1:]):
        import_module(module)
    treadle.load_config(treadle.Config, {"run_dir": "unused", "duration": "1 epoch"})
    gc.freeze()


def execute(words: list[str], environment: dict[str, str], cwd: str) -> int:
    """Be a Python that was started with these words; gives its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    warnings.resetwarnings()
    sys.orig_argv = words
    try:
        if words[1] == "-m":
            sys.argv, sys.path[0] = words[2:], cwd
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words[1:], str(Path(words[1]).parent)
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main() -> None:
    """Serve; in a child, be the program that was asked for."""
    _warm_up()
    command = serve()
    if command is None:
        return
    if "words" in command:
        os._exit(execute(command["words"], command["environment"], command["cwd"]))
    program.main(command["arguments"])
    os._exit(0)


if __name__ == "__main__":
    main()
