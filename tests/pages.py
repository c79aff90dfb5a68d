"""The code of a page, run as a reader would run it: from top to bottom, in one folder."""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(python|bash|yaml|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+)")
"""A block whose first line is only a file's name is that file."""
_WITH = re.compile(r"# with (\w+)\n")
"""A block whose first line names a package runs only where that is installed."""
_VARIES = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?|(\.\.\.|/tmp)/\S+|\s+")
"""Another machine rounds otherwise, and is faster or slower; names and words are the same."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that runs, and of those that show what was printed."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_page(page: Path) -> dict[str, object]:
    """Run every block in the current folder, and give the names that the Python ones defined.

    A text block right after a block that printed must be what it printed: its lines in this order, numbers aside, and ``...`` for some that
    are left out.
    """
    names: dict[str, object] = {"__name__": "page"}
    printed = ""
    for language, text in blocks(page):
        file = _FILE.fullmatch(text.partition("\n")[0])
        if language == "text":
            if printed:
                _compare(text, printed, page)
            printed = ""
        elif language != "bash" and file:
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(text)
            importlib.invalidate_caches()
        elif (needs := _WITH.match(text)) and importlib.util.find_spec(needs[1]) is None:
            continue  # a program of another library, which is not here
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out), warnings.catch_warnings():
                if needs:  # what another library warns of is its own affair
                    warnings.simplefilter("ignore")
                exec(compile(text, str(page), "exec"), names)
            printed = out.getvalue()
        elif language == "bash":
            printed = _shell(text)
    return names


def _compare(text: str, printed: str, page: Path) -> None:
    lines = iter([_VARIES.sub("#", line.strip()) for line in printed.splitlines()])
    for shown in text.splitlines():
        wanted = _VARIES.sub("#", shown.strip().removesuffix("..."))
        assert not wanted or any(line.startswith(wanted) for line in lines), f"{page.name} shows what is not printed: {shown!r}\nprinted:\n{printed}"


def _shell(text: str) -> str:
    programs = Path(sys.executable).parent
    # Two compilers of the same file in a second would be told apart by its time only.
    settings = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-e", "-c", text]
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout[-6000:]}"
    return done.stdout
