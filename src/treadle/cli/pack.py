"""`treadle pack RUN`: a run in one file, to be sent and run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from treadle.cli.show import add_run_argument, run_folder
from treadle.core.errors import UsageError
from treadle.system.folder import RunFolder, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_run_argument(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="the archive; RUN.zip in this folder unless told")
    parser.add_argument("--checkpoints", choices=("best", "all", "none"), default="best", help="which go with it: best and last (default), all, none")
    parser.add_argument("--capsules", action="store_true", help="also the steps that failed, for treadle replay; they hold batches of the data")


def run(options: argparse.Namespace) -> int:
    """Pack it, and say how large it is."""
    from treadle.proof.command import ended_by_signals
    from treadle.provenance.pack import pack

    folder = run_folder(options.run)
    if RunFolder(folder).is_locked():
        raise UsageError(f"{options.run!r} is being written at this moment; pack it when it has ended")
    target = Path(options.output) if options.output else Path(f"{folder.absolute().name}.zip")
    if target.exists():
        raise UsageError(f"{str(target)!r} is there already; give another file: -o FILE")
    try:
        with ended_by_signals():
            notes = pack(folder, target, _checkpoints(folder, options.checkpoints), options.capsules)
        for note in [*notes, *_left_out(folder, options.capsules)]:
            print(note)
    except OSError as error:
        raise UsageError(f"{str(target)!r} cannot be written: {error.strerror or error}") from None
    print(f"{target}: {target.stat().st_size:,} bytes; make it again anywhere: treadle rerun {target}")
    return 0


def _left_out(folder: Path, capsules: bool) -> list[str]:
    number = 0 if capsules else len(list((folder / "capsules").glob("step-*")))
    return [f"{number} capsule(s) are not in the archive; --capsules puts them in, with the batches of data that they hold"] if number else []


def _checkpoints(folder: Path, which: str) -> list[str]:
    if which == "all":
        return [path.name for path in (folder / "checkpoints").glob("step-*")]
    record = read_record(folder)
    return [] if which == "none" else [Path(record[name]).name for name in ("best", "last") if record.get(name)]
