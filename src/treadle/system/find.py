"""The run folders below a folder."""

from __future__ import annotations

import os
from pathlib import Path


def find_runs(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Every run folder below a folder, or the folder itself where it is one.

    What lies in a run folder is part of that run, and not looked into; nor are hidden folders. Links are followed, after
    everything that is there by itself, so each run is found once and under its own name.

    Args:
        folder: where to look.

    Returns:
        the run folders in order of their paths, and a line for each folder that could not be read.

    Example:
        >>> find_runs("nowhere")
        ([], [])
    """
    found: list[Path] = []
    unread: list[str] = []
    waiting, links = [Path(folder)], list[Path]()
    seen: set[tuple[int, int]] = set()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop()
        try:
            facts = here.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(here) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # it was removed just now, or a link leads nowhere
            continue
        except OSError as error:
            unread.append(f"{here} cannot be read: {error.strerror}")
            continue
        if any(entry.name == "run.json" for entry in inside):
            found.append(here)
            continue
        for entry in inside:
            if not entry.name.startswith("."):
                if entry.is_symlink():
                    links.append(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
    return sorted(found), sorted(unread)
