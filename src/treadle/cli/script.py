"""`treadle.main`: a script's own function as a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from treadle.cli.experiment import Configured, add_accept_argument, add_config_arguments, configured
from treadle.cli.main import OneLineParser, exit_code, guarded, parsed
from treadle.cli.train import report


def main(function: Callable[[Any], Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """Call a function with the config that the command line asks for, and end the process with its exit code.

    The command line takes ``key=value ...``, ``--config f.yaml``, ``--accept-changes``, ``--quiet`` and ``--help``, which lists every key. An error
    of Treadle's is a message, Ctrl-C is no traceback; an exception of your own code arrives as it is.

    Args:
        function: takes a config first, annotated with its dataclass; returns a `Result`, a `Trainer`, which is then
            fitted, or whatever it likes.
        arguments: without the program's name; the process's own unless told.

    Raises:
        SystemExit: unless your own code raises: 0 finished, 1 refused, 2 no such command line, 75 time limit, 130 Ctrl-C, 143 SIGTERM.

    Example:
        >>> def train(config: treadle.Config):
        ...     print(config.duration, config.seed)
        >>> import treadle
        >>> treadle.main(train, ["run_dir=runs/a", "duration=3 epochs", "seed=7"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    name = Path(sys.argv[0]).name or "python"
    words = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(guarded(name, lambda: _run(function, name, list(words))))


def _run(function: Callable[[Any], Any], name: str, words: list[str]) -> int:
    from treadle.core.result import Result
    from treadle.trainer import Trainer

    given = Configured.of(function, name)
    described = (function.__doc__ or "").partition("\n")[0]
    parser = OneLineParser(prog=name, usage=f"{name} [key=value ...] [options]", description=described, allow_abbrev=False)
    add_config_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="show nothing but warnings and errors")
    add_accept_argument(parser)
    parser.set_defaults(json=False)  # the function may print whatever it likes
    if {"-h", "--help"} & set(words):
        parser.print_help()
        print(given.keys())
        return 0
    options = parsed(parser, words)
    result = function(configured(given, options))
    if isinstance(result, Trainer):  # an experiment is a function from a config to a trainer
        result = result.fit()
    if not isinstance(result, Result):
        return 0
    report(result, options)
    return exit_code(result.status)
