"""Judge: whether a run that was made again is the first one: what it computed, how far it came, and how and why it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from treadle.checkpoint.digests import read_digests
from treadle.proof.compare import Comparison, Difference, compare
from treadle.proof.replay import without_addresses
from treadle.system.folder import read_record

OPEN = ("running", "interrupted")
"""Statuses of a run that was to go on: it is made again as far as it came."""


def judged(run: Path, again: Path, code: Path, folders: Iterable[str] = ()) -> Comparison:
    """Compare a run with the one that was made again.

    Args:
        run: the first run folder.
        again: the second one.
        code: the folder that stood for the root of the file system when it was made again.
        folders: names that the two folders had in messages; ``{n}`` stands for a number.
    """
    before, now = read_record(run), read_record(again)
    is_open = before.get("status") in OPEN
    result = compare(run, again, until=before["steps"] if is_open else None, thinned=True)
    checkpoints = _digests(run, again, result)
    if checkpoints is not None and (result.difference is None or result.difference.step is None or checkpoints.step < result.difference.step):  # type: ignore[operator]
        result.difference = checkpoints
    result.difference = result.difference or _ends(before, now, is_open, code, list(folders))
    return result


def holds_something(counts: Mapping[str, int]) -> bool:
    """Whether anything was compared that a program computes."""
    return any(counts.get(kind) for kind in ("journal rows", "tensors", "checkpoints"))


def _digests(run: Path, again: Path, result: Comparison) -> Difference | None:
    """The first checkpoint that both had at some time, and not alike."""
    before, now = read_digests(run), read_digests(again)
    common = sorted(set(before) & set(now))
    result.counts["checkpoints"] = len(common)
    step = next((step for step in common if before[step] != now[step]), None)
    if step is None:
        return None
    name = next(name for name in sorted({*before[step], *now[step]}) if before[step].get(name) != now[step].get(name))
    return Difference("weights", step, f"the checkpoint's {name}", *(side[step].get(name, "absent")[:12] for side in (before, now)))


def _ends(before: Mapping[str, Any], now: Mapping[str, Any], is_open: bool, code: Path, folders: list[str]) -> Difference | None:
    """Two failures are the same where they fail at the same step with the same words."""
    if before.get("steps") != now.get("steps"):
        return Difference("steps", None, "the number of steps", str(before.get("steps")), str(now.get("steps")))
    if not is_open and before.get("status") != now.get("status"):
        return Difference("steps", None, "how it ended", str(before.get("status")), str(now.get("status")))
    reasons = [_plain(str(record.get("reason") or ""), code, folders) for record in (before, now)]
    if not is_open and "reason" in before and reasons[0] != reasons[1]:
        return Difference("steps", None, "why it ended", *(reason or "(nothing said)" for reason in reasons))
    return None


def _plain(reason: str, code: Path, folders: list[str]) -> str:
    """Words without what is another one each time: places in memory and in the file system."""
    text = without_addresses(reason).replace(str(code), "")
    for folder in sorted({folder for folder in folders if folder.strip("./")}, key=len, reverse=True):
        pattern = re.escape(folder).replace(re.escape("{n}"), r"\d+")
        text = re.sub(rf"(?<![\w./-]){pattern}(?![\w-])", "RUN", text)
    return text
