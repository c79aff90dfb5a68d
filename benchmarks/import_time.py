"""What `import treadle` costs beside `import torch`: CPU seconds of fresh processes, in turn, medians.

    python benchmarks/import_time.py [--processes 5]

`treadle` imports its public names when they are first used; "all names" uses every one of them.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys

IMPORTS = {
    "import torch": "import torch",
    "import torch, treadle; treadle.train": "import torch, treadle; treadle.train",
    "import torch, treadle; all names": "import torch, treadle; [getattr(treadle, name) for name in treadle.__all__]",
    "import treadle": "import treadle",
}


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    processes = parser.parse_args().processes
    for code in IMPORTS.values():
        cpu_seconds(code)  # warm the file cache
    rounds = [{name: cpu_seconds(code) for name, code in IMPORTS.items()} for _ in range(processes)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in IMPORTS}
    base = medians["import torch"]
    print(f"{platform.machine()}, Python {platform.python_version()}, {processes} processes each, medians of CPU seconds")
    for name, seconds in medians.items():
        print(f"{name:40} {seconds:6.3f} s   {seconds / base:5.2f} x import torch")
    print(json.dumps({name: round(seconds, 4) for name, seconds in medians.items()}))


if __name__ == "__main__":
    main()
