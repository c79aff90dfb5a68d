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
import difflib
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import NoReturn

from treadle.core.bug import add_report_note
from treadle.core.errors import TreadleError, did_you_mean

VERBS = {
    "demo": "train LeNet-5 on MNIST and show what a run is",
    "new": "make a project: config, data, model, a notebook, a test; it runs at once",
    "train": "train an experiment, or go on where it was",
    "explain": "what will happen in an epoch, in which order and at which steps; nothing is trained",
    "find-lr": "at which learning rate an experiment's loss falls fastest",
    "check-data": "whether items of one split of an experiment's data are in another too",
    "evaluate": "the metrics of a run's weights on a dataset",
    "predict": "the outputs of a run's model for a dataset, as a file",
    "profile": "where the time and memory of your program's steps go, and what to change",
    "prove": "run your program, kill it again and again, and compare every bit",
    "rerun": "make a run again from its record, and say whether it is the same to the bit",
    "replay": "make a step again that failed, and find where it went wrong",
    "pack": "a run in one file, to be sent and run again",
    "runs": "all runs below a folder: status, results, what differs in their configs",
    "show": "a run in the terminal: status, what made it, values, curves, config",
    "diff": "two runs: what differs in config, code, environment, data and results",
    "plot": "the curves of one or several runs as a picture",
    "board": "TensorBoard on a folder of runs",
    "completion": "print a script that completes treadle's command lines in your shell",
}
_GROUPS = {
    "Begin": ("demo", "new"),
    "Train": ("explain", "check-data", "find-lr", "train", "evaluate", "predict", "profile"),
    "Make again": ("prove", "rerun", "replay", "pack"),
    "Look": ("runs", "show", "diff", "plot", "board"),
    "Shell": ("completion",),
}
_HELP = """\
usage: treadle COMMAND ...

Train PyTorch models: runs that cannot be lost, results that can be made again.

{commands}
Try
  treadle new my_project               then: cd my_project; python src/main.py
  treadle train src/train.py lr=0.01   any key of the config is key=value
  treadle COMMAND --help               what a command takes
  treadle --version

Exit codes: 0 finished, 1 failed or refused, 2 no such command line, and, where the same command goes on:
75 time limit, 130 Ctrl-C, 143 SIGTERM.
"""
TIME_LIMIT = 75
_UNITS = ("epoch", "step", "sample", "second", "minute", "hour")
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
    verb = words[0] if words else ""
    if verb and not verb.startswith("-") and verb not in VERBS:
        print(f"treadle: unknown command {verb!r}{did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2
    return guarded(f"treadle {verb}".strip(), lambda: _run(verb, words))


def guarded(name: str, call: Callable[[], int]) -> int:
    """Call a program's whole work; its exit code, with a message in place of a traceback where the fault is no bug.

    Args:
        name: the program's, for its messages.
        call: gives the exit code. An exception of the user's own code leaves it unchanged.
    """
    if sys.stdout is None:  # closed by who started this: there is work to do all the same
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show ends no run
    try:
        try:
            return call()
        finally:
            sys.stdout.flush()  # a reader who has gone is noticed here, and not at the end of the process
    except TreadleError as error:
        print(f"{name}: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more must not interrupt the end of the process
        print(f"{name}: stopped at once", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        add_report_note(error)
        raise


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; its ``key=value`` words as ``overrides``.

    Raises:
        SystemExit: with code 2 and a message, where a word belongs to nothing.
    """
    takes_values, command = bool(parser.get_default("takes_values")), []
    if parser.get_default("takes_command") and "--" in words:
        words, command = words[: words.index("--")], list(words[words.index("--") + 1 :])
    overrides = [word for word in words if takes_values and _OVERRIDE.match(word)]
    options, unknown = parser.parse_known_args([word for word in words if word not in overrides])
    if unknown and overrides and unknown[0].rstrip("s") in _UNITS:
        parser.error(f'a value with a blank in it needs quotes, such as "{overrides[-1]} {unknown[0]}"')
    if unknown:
        parser.error(_unknown(unknown[0], parser, takes_values))
    options.overrides = overrides
    if command:
        options.command = command
    return options


def parsers(verbs: Iterable[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of command lines with these verbs, and that of each verb; only their modules are imported."""
    parser = _Program(prog="treadle")
    parser.add_argument("--version", action="version", version=_version())
    choices = parser.add_subparsers(dest="verb", metavar="COMMAND", parser_class=OneLineParser)
    for name in verbs:
        module = import_module(f"treadle.cli.{name.replace('-', '_')}")
        one = choices.add_parser(name, help=VERBS[name], description=f"{VERBS[name][0].upper()}{VERBS[name][1:]}.", allow_abbrev=False)
        module.add_arguments(one)
        one.set_defaults(call=module.run)
    return parser, dict(choices.choices)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to read more."""

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        self.exit(2, f"{self.prog}: {message}\n  more: {self.prog} --help\n")


class _Program(OneLineParser):
    """The whole command line has a help page of its own."""

    def format_help(self) -> str:
        groups = (f"{group}\n" + "".join(f"  {verb:<12}{VERBS[verb]}\n" for verb in verbs) for group, verbs in _GROUPS.items())
        return _HELP.format(commands="\n".join(groups))


def _run(verb: str, words: list[str]) -> int:
    if verb in VERBS and {"-h", "--help"} & set(words[: words.index("--")] if "--" in words else words):
        return _help(verb, words[1:])
    program, verbs = parsers([verb] if verb in VERBS else [])
    if verb in verbs:
        options = parsed(verbs[verb], words[1:])
        return int(options.call(options))
    program.parse_args(words)
    program.print_help()
    return 0


def _help(verb: str, words: list[str]) -> int:
    """The help page of a verb, and of the file that stands on its line."""
    parser = parsers([verb])[1][verb]
    parser.print_help()
    named = [word for word in words if re.search(r"\.py(:\w+)?$", word)]
    if named and (more := parser.get_default("more_help")):
        print(more(named[0]))
    return 0


def _unknown(word: str, parser: argparse.ArgumentParser, takes_values: bool) -> str:
    """What to say about a word that belongs to nothing."""
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.8)
    value = f"; a value of the config is given as {word.strip('-').partition('=')[0]}=..." if takes_values else ""
    return f"unrecognized {word!r}{f'; did you mean {near[0]!r}?' if near else value}"


def _version() -> str:
    from importlib.metadata import version

    return f"treadle {version('treadle')}"


def exit_code(status: str) -> int:
    """The exit code of a run's status, see the top of this file."""
    if status.startswith("interrupted"):
        return {"interrupted: SIGINT": 130, "interrupted: SIGTERM": 143, "interrupted: time limit": TIME_LIMIT}.get(status, 1)
    return 0
