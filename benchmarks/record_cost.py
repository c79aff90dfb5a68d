"""What it costs to record a run that is made from a large repository: seconds from the question to the files on the disk.

    python benchmarks/record_cost.py [--files 100000] [--rounds 5]

A repository of so many files is made in a temporary folder, with a few that were edited since and a few that git does not know. "First" is a
process that has asked nothing yet; "again" is one more run in the same process, after an edit. The large repository is compared with one of ten
files, so that the rest of the cost (Python's packages, the machine) is seen as well.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIT = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "core.fsync=none", "-c", "gc.auto=0")
ONE_RUN = """
import sys, time
sys.path.insert(0, "src")
import torch, treadle, part
from pathlib import Path
from treadle.provenance.record import Record

def seconds(name):
    began = time.perf_counter()
    record = Record(Path(name), print)
    record.take(config, torch.device("cpu"), {})
    record.begin(0)
    return time.perf_counter() - began

config = treadle.Config(run_dir="results/a", duration="1 step")
first = seconds("results/a")
Path("src/part.py").write_text("x = 3\\n")
print(first, seconds("results/b"))
"""


def repository(root: Path, files: int) -> None:
    """A repository of so many files, a hundred in each folder."""
    for number in range(files):
        folder = root / "src" / f"{number // 10000:02}" / f"{number // 100 % 100:02}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"file {number}.py").write_text(f"x = {number}\n")
    (root / "src" / "part.py").write_text("x = 1\n")
    (root / ".gitignore").write_text("__pycache__\nresults\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run([*GIT, *words], cwd=root, check=True)
    for number in range(0, min(files, 20)):
        (root / "src" / "00" / "00" / f"file {number}.py").write_text("x = 0\n")
        (root / f"new {number}.py").write_text("x = 0\n")
    (root / "src" / "part.py").write_text("x = 2\n")


def one_round(root: Path) -> tuple[float, float]:
    """Seconds of the first record of a process, and of the next."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_RUN], cwd=root, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    first, again = map(float, done.stdout.splitlines()[-1].split())
    return first, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    version = subprocess.run(["git", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{platform.machine()}, Python {platform.python_version()}, {version}, {given.rounds} rounds, medians")
    print(f"{'files':>10} {'just made':>12} {'first':>10} {'again':>10}")
    found = {}
    for files in (10, given.files):
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            repository(Path(place), files)
            print(f"(made in {time.perf_counter() - began:.0f} s)", file=sys.stderr)
            new = one_round(Path(place))[0]
            rounds = [one_round(Path(place)) for _ in range(given.rounds)]
        first, again = (statistics.median(one[number] for one in rounds) for number in (0, 1))
        found[files] = {"just_made": round(new, 4), "first": round(first, 4), "again": round(again, 4)}
        print(f"{files:>10,} {new:>10.3f} s {first:>8.3f} s {again:>8.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
