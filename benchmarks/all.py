"""All benchmarks, one after the other: `make bench`, and `make bench-all` with the long ones.

    python benchmarks/all.py [--full]

Each is a process; the figures go to benchmarks/results, and from there into the tables by `python benchmarks/table.py`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from harness import machine, save

HERE = Path(__file__).parent
QUICK = {name: ["--save"] for name in ("start_up", "step_overhead", "lenet_epoch", "small_gpt", "watching", "resume_cost", "growth")}
FULL = {name: [*words, "--rounds", "9"] for name, words in QUICK.items()}
FULL["lenet_epoch"] += ["--sizes", "1280", "55040"]
FULL["growth"] += ["--sizes", "1000000"]
FULL["compile"] = ["--save"]
OWN_WAY = {"checkpoint_stall": ["--rounds", "7"], "record_cost": []}
"""Benchmarks that are not ratios to a base: the last line of what they print is their figures."""


def run(name: str, words: list[str]) -> str:
    print(f"{name} {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *words], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="longer runs, more rounds, and those that take minutes by themselves")
    full = parser.parse_args().full
    for name, words in (FULL if full else QUICK).items():
        run(name, words)
    for name, words in OWN_WAY.items() if full else ():
        *_, figures = run(name, words).splitlines()
        save({"benchmark": name, **machine(), "figures": json.loads(figures)})


if __name__ == "__main__":
    main()
