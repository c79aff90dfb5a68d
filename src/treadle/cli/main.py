"""`treadle`: find the verb, run it, turn what went wrong into one message and an exit code.

0    finished, or stopped by a rule of the run
1    failed, or refused
2    not a command line of treadle
75   the time limit was reached; the same command goes on
130  Ctrl-C; the same command goes on
143  SIGTERM; the same command goes on
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from treadle.core.errors import TreadleError, did_you_mean

VERBS = {
    "demo": "train LeNet-5 on MNIST and show what a run is",
    "train": "train an experiment: FILE[:function] [--config f.yaml] [key=value ...]",
    "evaluate": "evaluate a finished or interrupted run",
}
TIME_LIMIT = 75
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
"""``key=value`` may stand anywhere on the line, also between options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; the process's own unless told.

    Returns:
        the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        print(f"treadle: unknown command {words[0]!r}{did_you_mean(words[0], VERBS)}", file=sys.stderr)
        return 2
    overrides = [word for word in words if _OVERRIDE.match(word)]
    options = _parser(words[0] if words else "").parse_args([word for word in words if word not in overrides])
    if overrides and not hasattr(options, "config"):
        print(f"treadle {words[0]}: takes no key=value, got {' '.join(overrides)}", file=sys.stderr)
        return 2
    options.overrides = overrides
    if options.verb is None:
        _parser("").print_help()
        return 0
    try:
        return int(options.call(options))
    except TreadleError as error:
        print(f"treadle {options.verb}: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"treadle {options.verb}: stopped at once", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="treadle", description="Train PyTorch models: runs that cannot be lost, results that can be made again.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")
    for name, text in VERBS.items():
        one = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == verb:  # only the verb that is asked for is imported
            module = import_module(f"treadle.cli.{name}")
            module.add_arguments(one)
            one.set_defaults(call=module.run)
    return parser


def _version() -> str:
    from treadle import __version__

    return f"treadle {__version__}"


def exit_code(status: str) -> int:
    """The exit code of a run's status, see the top of this file."""
    if status.startswith("interrupted"):
        return {"interrupted: SIGINT": 130, "interrupted: SIGTERM": 143, "interrupted: time limit": TIME_LIMIT}.get(status, 1)
    return 0
