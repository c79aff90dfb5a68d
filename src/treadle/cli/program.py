"""A program of the user's, as a command line gives it: an experiment with its values, or any command after ``--``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError


def add_program_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """``FILE[:function]``, ``--config f.yaml``, ``key=value`` and ``-- python my_loop.py``."""
    parser.usage = f"treadle {verb} FILE[:function] [key=value ...] [options]\n       treadle {verb} [options] -- python my_loop.py [arguments]"
    parser.add_argument("target", metavar="FILE[:function]", nargs="?", help="an experiment, as for treadle train; or give a whole command after --")
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help="YAML file of values; of several, the last wins")
    parser.set_defaults(takes_values=True, takes_command=True, command=[])


def program_words(verb: str, options: argparse.Namespace) -> list[str] | None:
    """The words that start the program; None, and a message, where the command line has none or two.

    Raises:
        UsageError: there is no such file.
    """
    if bool(options.target) == bool(options.command) or (options.command and (options.overrides or options.config)):
        given = "both" if options.target and options.command else "values without a file" if options.overrides or options.config else "neither"
        print(f"treadle {verb}: give a file with its values, or a command after --; got {given}\n  more: treadle {verb} --help", file=sys.stderr)
        return None
    if options.command:  # the word python means the one that this command runs in
        program, *arguments = options.command
        return [sys.executable if program in ("python", "python3") else program, *arguments]
    file = options.target if Path(options.target).is_file() else options.target.rpartition(":")[0]
    if not Path(file).is_file():
        raise UsageError(f"there is no file {options.target!r}")
    configs = [word for name in options.config for word in ("--config", name)]
    return [sys.executable, "-m", "treadle", "train", options.target, *options.overrides, *configs]


def at_least(smallest: int) -> Any:
    """A type of argument: a whole number that is not too small."""

    def number(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, got {value}")
        return value

    number.__name__ = "whole number"
    return number
