"""`treadle replay CAPSULE`: make the step that failed again."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.errors import UsageError
from treadle.log.tables import print_json, print_table

if TYPE_CHECKING:
    from treadle.proof.replay import Replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("capsule", metavar="CAPSULE", help="a folder below capsules/ of a run, or the run, whose newest is taken")
    parser.add_argument("--anomaly", action="store_true", help="also name the module that first gave a value that is not finite")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for the program; for ever unless told")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "it runs the program, as its files are now, for this one step; exit code 0: it fails as it did; 1: otherwise, or not at all"


def run(options: argparse.Namespace) -> int:
    """Make it again, and compare with what happened first."""
    from treadle.log.console import watching
    from treadle.proof.command import ended_by_signals
    from treadle.proof.replay import replay

    capsule = _capsule(options.capsule)
    quiet = "quiet" if options.json else "auto"
    temporary = tempfile.TemporaryDirectory(prefix="treadle-replay-", ignore_cleanup_errors=True)
    with ended_by_signals(), temporary as scratch, watching("making the step again", quiet):
        result = replay(capsule, Path(scratch), anomaly=options.anomaly, timeout_s=options.timeout)
    if options.json:
        print_json({"capsule": str(capsule), **vars(result)})
    else:
        print_table(f"step {result.step} of {capsule.parents[1]}: {_verdict(result)}", [], _rows(result, options.anomaly))
    return 0 if result.same else 1


def _capsule(name: str) -> Path:
    folder = Path(name)
    found = sorted(folder.glob("capsules/step-*"), key=lambda path: (path.stat().st_mtime_ns, path.name))  # steps may begin anew, time does not
    if not folder.is_dir() or (not found and folder.absolute().parent.name != "capsules"):
        raise UsageError(f"{name!r} is no capsule, and no run with one")
    return found[-1] if found else folder


def _verdict(result: Replay) -> str:
    if result.same:
        return "it fails as it did"
    return "it fails otherwise this time" if result.now else "it goes through this time"


def _rows(result: Replay, searched: bool) -> list[list[str]]:
    rows = [["then", result.before], ["now", result.now or "no error"]]
    if result.raised_in:
        rows.append(["raised in", result.raised_in])
    if result.ids is not None:
        rows.append(["samples", f"{', '.join(map(str, result.ids[:16]))}{', ...' if len(result.ids) > 16 else ''}"])
    rows.append(["batch", {"the same": "the data gives the same again", "another": "the data gives another now; the one of the capsule was used"}.get(
        result.batch, "not in the capsule; read again from the data")])  # fmt: skip
    if result.gradients:
        rows.append(["gradients", f"not finite: {', '.join(result.gradients[:8])}{', ...' if len(result.gradients) > 8 else ''}"])
    if searched:
        rows += [["found", line] for line in result.found] or [["found", _nothing_found(result)]]
    if result.changed:
        rows.append(["not certain", f"the code is not that of the run: {', '.join(result.changed[:4])}{', ...' if len(result.changed) > 4 else ''}"])
    if result.doubtful:
        rows.append(["not certain", f"the random generator of {', '.join(result.doubtful)} as it was before the step"])
    if result.doubtful_buffers:
        rows.append(["not certain", f"the buffer {', '.join(result.doubtful_buffers)} as it was before the step"])
    if result.updates:
        rows.append(["not certain", f"{result.updates} update(s) of this step had been made already when it failed"])
    return rows


def _nothing_found(result: Replay) -> str:
    """What it says where every module's values were finite."""
    is_about_values = (result.now or result.before).startswith("NonFiniteLoss")
    return f"every module's values are finite{': it happens in the objective, after the model' if is_about_values and result.now else ''}"
