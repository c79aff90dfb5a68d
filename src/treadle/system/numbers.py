"""Numbers for runs: ``run_dir="results/{n}"`` begins each new run beside the ones before."""

from __future__ import annotations

import glob
import re
from pathlib import Path
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
    numbers = sorted(_taken(before, after), reverse=True)
    folders = {name: RunFolder(name) for _, name in numbers if Path(name).is_dir()}
    unfinished = [name for name, folder in folders.items() if folder.is_unfinished(config)]
    same = [name for name in unfinished if folders[name].has_same_code()]
    other = unfinished[:1] if not same else []
    notes = [f"{name} is unfinished, with this config and other code: run_dir={name} --accept-changes goes on there" for name in other]
    following = numbers[0][0] + 1 if numbers else 1
    free = (name for name, folder in folders.items() if folder.is_free())
    chosen = same[0] if same else next(free, f"{before}{following:03d}{after}")
    return with_run_dir(config, chosen), notes


def _taken(before: str, after: str) -> list[tuple[int, str]]:
    pattern = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    names = glob.glob(f"{glob.escape(before)}*{glob.escape(after)}")  # noqa: PTH207, a Path would lose a leading "./"
    return [(int(match[1]), name) for name in names if (match := pattern.fullmatch(name))]
