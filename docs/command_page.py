"""Write docs/reference/command-line.md from the commands' own parsers: `python docs/command_page.py`.

A test holds the page to the command line.
"""

import argparse
from pathlib import Path

from treadle.cli.main import VERBS, parsers

HEAD = """# Command line

Look up every command and its options. Written from the commands themselves by `python docs/command_page.py`; `treadle COMMAND --help` says the
same.

`treadle --version` prints the version. Exit codes are listed with [the errors](../errors.md#exit-codes).

| Command | |
|---|---|"""


def page() -> str:
    """The whole page."""
    rows = [f"| [`treadle {verb}`](#treadle-{verb}) | {cell(text)} |" for verb, text in VERBS.items()]
    return "\n".join([HEAD, *rows, *(line for verb, parser in parsers(VERBS)[1].items() for line in section(verb, parser))])


def section(verb: str, parser: argparse.ArgumentParser) -> list[str]:
    """One command: what to type, and a table of what it takes."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS and "--help" not in action.option_strings]
    lines = ["", f"## `treadle {verb}`", "", plain(parser.description), "", "```text", usage(verb, parser, actions), "```", ""]
    if actions:
        lines += ["| | |", "|---|---|", *(f"| {name(action)} | {cell(meaning(action))} |" for action in actions), ""]
    return [*lines, *([plain(parser.epilog), ""] if parser.epilog else [])][:-1]


def usage(verb: str, parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    """The line to type."""
    if parser.usage:
        return plain(parser.usage)
    words = [f"treadle {verb}"]
    repeated = {"?": "[{}]", "*": "[{} ...]", "+": "{} ..."}
    words += [repeated.get(str(action.nargs), "{}").format(shown(action)) for action in actions if not action.option_strings]
    words += [f"[{action.option_strings[-1]}{value(action)}]" for action in actions if action.option_strings]
    return " ".join([*words, *(["[key=value ...]"] if "key=value" in (parser.epilog or "") else [])])


def name(action: argparse.Action) -> str:
    """An option with its value, or the name of an argument."""
    text = f"{', '.join(action.option_strings)}{value(action)}" if action.option_strings else shown(action)
    return f"`{text}`".replace("|", "\\|")


def value(action: argparse.Action) -> str:
    """The value behind an option."""
    return "" if action.nargs == 0 else f" {shown(action)} ..." if action.nargs in ("+", "*") else f" {shown(action)}"


def shown(action: argparse.Action) -> str:
    """What stands for the value."""
    choices = "|".join(map(str, action.choices)) if action.choices else ""
    return str(action.metavar or choices or (action.dest.upper() if action.option_strings else action.dest))


def meaning(action: argparse.Action) -> str:
    """The help of an option."""
    return (action.help or "") % {**vars(action), "prog": "treadle"}


def cell(text: str) -> str:
    """A text as the cell of a table."""
    return plain(text).replace("|", "\\|")


def plain(text: str | None) -> str:
    """A text on one line."""
    return " ".join((text or "").split())


if __name__ == "__main__":
    Path(__file__).parent.joinpath("reference", "command-line.md").write_text(page() + "\n", encoding="utf-8")
