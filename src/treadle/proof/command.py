"""The command of a run: the words, the folder and the variables that start its program once more."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIG_IGN, SIGHUP, SIGTERM, getsignal, signal
from types import FrameType
from typing import Any

from treadle.core.errors import UsageError
from treadle.provenance.secrets import WITHHELD, any_withheld

_COMPUTING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "NUMEXPR_", "CUBLAS_", "CUDNN_", "TORCH", "PYTORCH_", "ATEN_", "NVIDIA_TF32", "PYTHONHASHSEED")
"""Beginnings of variables that say how something is computed; others belong to the machine."""
_PLACE = re.compile(r"_(HOME|DIR|PATH|FILE)$")
"""Ends of variables that say where something is kept, such as TORCH_HOME: those of today stay."""
_NOTEBOOK = re.compile(r"ipykernel|jupyter|colab_kernel")
_PLAIN_OPTION = re.compile(r"-[bBdEhiIOqsSuvVx]+$")
"""Options of Python's own that take no value."""

Moved = Callable[[str], str]


def command_of(record: Mapping[str, Any], state: Mapping[str, Any], moved: Moved, config: Path) -> list[str]:
    """The words that start the program again.

    Args:
        record: what made the run.
        state: its `run.json`.
        moved: gives a path as it is now.
        config: its config.

    Raises:
        UsageError: it was made in a notebook or an interpreter, or the words are not all there.
    """
    words, origin = [str(word) for word in record.get("command", ())], str(state.get("origin") or "")
    if why := _no_command(words):
        if not origin:
            raise UsageError(f"the run cannot be started again: {why}, and no function `experiment` of a file made its trainer")
        return [sys.executable, "-m", "treadle", "train", moved(origin), "--config", str(config)]
    place = next((place for place, word in enumerate(words) if place and not _PLAIN_OPTION.match(word)), len(words))
    program = ["-m", "treadle"] if Path(words[place]).name == "treadle" else [moved(words[place])]
    return [sys.executable, *words[1:place], *program, *map(moved, words[place + 1 :])]


def _no_command(words: list[str]) -> str:
    """Why a command line cannot be given again; empty where it can."""
    program = next((word for word in words[1:] if not _PLAIN_OPTION.match(word)), "")
    if any_withheld(words):
        return f"its command line holds a secret, which was not recorded ({WITHHELD})"
    if any(_NOTEBOOK.search(word) for word in words[:4]):
        return "it was made in a notebook"
    return "its program was typed or read from standard input" if program in ("", "-") else ""


def variables_of(record: Mapping[str, Any], moved: Moved) -> dict[str, str | None]:
    """Variables that say how something is computed, as they were, and where Python finds the code.

    What is on Python's path today stays there, after the code of the run.

    Returns:
        them; None for one that is set today and was not then.
    """
    environment = record.get("environment", {})
    recorded = environment.get("variables")
    then = {str(name): str(value) for name, value in (recorded or {}).items()}
    found: dict[str, str | None] = {name: value for name, value in then.items() if name.startswith(_COMPUTING) and WITHHELD not in value}
    if threads := environment.get("threads"):
        found.setdefault("OMP_NUM_THREADS", str(threads))  # how many threads share a sum decides its rounding
    if recorded is not None:
        new = {name for name in os.environ if name.startswith(_COMPUTING) and not _PLACE.search(name)} - {*then, *found}
        found |= dict.fromkeys(new)
    today = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [moved(str(path)) for path in (*record.get("code", {}).get("paths", ()), *map(os.path.abspath, today))]
    return {**found, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does, with everything put back, and exit code 143 or 129.

    A signal that is ignored, as SIGHUP is under nohup, stays so.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal(other, SIG_IGN)  # a second one does not disturb putting back
        raise SystemExit(128 + number)

    before = {number: handler for number in (SIGTERM, SIGHUP) if (handler := getsignal(number)) not in (SIG_IGN, None)}
    with suppress(ValueError):  # outside of the main thread there are no handlers
        for number in before:
            signal(number, end)
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                signal(number, handler)
