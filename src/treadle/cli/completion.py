"""`treadle completion SHELL`: a script that completes command lines, made by shtab from the same parsers."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    import shtab

    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="which shell; for bash: source <(treadle completion bash)")


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from treadle.cli.main import VERBS, parsers

    program, verbs = parsers(VERBS)
    for parser in verbs.values():
        for action in parser._actions:
            if action.metavar in ("FILE", "FILE[:function]"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in ("RUN", "DIR"):
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(program, shell=options.shell))
    return 0
