"""The code of a page, run as a reader would run it: from top to bottom, in one folder."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(python|bash|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+)")
"""A block whose first line is only a file's name is that file."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that runs; those in ```text and ```console are output, and what a test cannot run."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_page(page: Path) -> dict[str, object]:
    """Run every block in the current folder, and give the names that the Python ones defined."""
    names: dict[str, object] = {"__name__": "page"}
    for language, text in blocks(page):
        file = _FILE.fullmatch(text.partition("\n")[0])
        if language != "bash" and file:
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(text)
            importlib.invalidate_caches()
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "bash":
            _shell(text)
    return names


def _shell(text: str) -> None:
    programs = Path(sys.executable).parent
    # Two compilers of the same file in a second would be told apart by its time only.
    settings = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-e", "-c", text], env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
