"""Numbers for runs: ``run_dir="results/{n}"`` begins each new run beside the ones before."""

from __future__ import annotations

import glob
import re
from typing import TypeVar

from treadle.config.schema import run_config, with_run_dir
from treadle.core.errors import ConfigError
from treadle.system.folder import RunFolder

T = TypeVar("T")
_PLACE = "{n}"


def numbered(config: T) -> tuple[T, list[str]]:
    """Put a number where a run_dir says ``{n}``: that of the unfinished run of this config and this code, else the next one.

    So a run that was cut short goes on when the same command is given again, and whatever else is started gets a folder of its own.

    Args:
        config: a `Config`, or one that holds one.

    Returns:
        the config with the folder's name in it, and what a person should know about the choice.

    Raises:
        ConfigError: ``{n}`` stands in it twice.
    """
    run_dir = run_config(config).run_dir
    before, found, after = run_dir.partition(_PLACE)
    if not found:
        return config, []
    if _PLACE in after:
        raise ConfigError(f"run_dir: got {run_dir!r}; {_PLACE} may stand in it once")
    notes: list[str] = []
    numbers = sorted(_taken(before, after), reverse=True)
    for _, name in numbers:
        folder = RunFolder(name)
        if folder.path.is_dir() and folder.waits_for(config):
            if folder.same_code():
                return with_run_dir(config, name), notes
            notes = notes or [f"{name} is unfinished, with this config and other code: run_dir={name} would go on there"]
    following = numbers[0][0] + 1 if numbers else 1
    return with_run_dir(config, f"{before}{following:03d}{after}"), notes


def _taken(before: str, after: str) -> list[tuple[int, str]]:
    pattern = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    names = glob.glob(f"{glob.escape(before)}*{glob.escape(after)}")  # noqa: PTH207, a Path would lose a leading "./"
    return [(int(match[1]), name) for name in names if (match := pattern.fullmatch(name))]
