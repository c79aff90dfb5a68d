"""Write the newest results into README.md and benchmarks/results/README.md: `python benchmarks/table.py`. A test holds both to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness import RESULTS, table

ROOT = RESULTS.parents[1]
BEGIN, END = "## What it costs\n", "\n## The tree\n"
PROFILE = "What your own steps spend their time and memory on: `treadle profile src/main.py` ([how](docs/howto/profile.md))."
LINKED = "[Every row](benchmarks/results/README.md), with quartiles; `make bench` measures again, `make bench-all` with the peers."

WORKLOADS = {
    "step_overhead": "A step that does next to nothing",
    "lenet_epoch": "LeNet-5 on MNIST",
    "small_gpt": "A small GPT, clipped and accumulated",
}
COLUMNS = {
    "Treadle": "treadle, nothing logged",
    "with journal, console, TensorBoard": "treadle, everything",
    "Lightning": "lightning",
    "Ignite": "ignite",
    "Accelerate": "accelerate",
    "transformers": "transformers",
}
OTHERS = {
    ("start_up", "import torch, treadle"): "Importing torch and every name of Treadle, over importing torch",
    ("start_up", "first step, treadle, nothing logged"): "From the start of a process to its first step done, over the script by hand",
    ("start_up", "first step, treadle, everything"): "The same, with journal, console and TensorBoard",
    ("lenet_epoch", "treadle, nothing logged / floor"): "LeNet-5 over as many steps on one batch that lies ready",
    ("resume_cost", "at sample 1,000,000,000, 0 workers"): "The first batch at sample 10^9 of 10^10, over that at sample 0",
    ("growth", "late in a run"): "A step at the end of a long run, over one of its beginning",
    ("growth", "epochs of 1 step"): "A step of epochs that are one step long, over one of a long epoch",
    ("growth", "10^9 samples"): "A step on 10^9 samples, over one on 10^3",
    ("growth", "100 checkpoints kept"): "A step where 100 checkpoints are kept, over one where 2 are",
}
FIGURES = {("checkpoint_stall", "stall / copy"): "Training stands still for a checkpoint, over copying its state in memory"}


def newest() -> dict[str, dict[str, Any]]:
    """The newest results of each benchmark, by its name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return {result["benchmark"]: result for result in found}


def rows(results: Mapping[str, Any], benchmark: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a benchmark that have figures, by entrant."""
    return {row["entrant"]: row for row in results.get(benchmark, {}).get("rows", []) if "cpu_ratio" in row}


def ratio(row: Mapping[str, Any] | None) -> str:
    """The median, as the table has it; an entrant that did other work is shown as such."""
    return "-" if row is None else f"{row['cpu_ratio'][1]:.2f} x" + ("" if row["same"] else " (other loss)")


def cell(found: Mapping[str, Mapping[str, Any]], entrant: str) -> str:
    """One entrant, or both modes of a peer."""
    if entrant in found:
        return ratio(found[entrant])
    modes = [ratio(found.get(f"{entrant}, {mode}")) for mode in ("nothing logged", "everything")]
    return "-" if set(modes) == {"-"} else " / ".join(modes)


def section() -> str:
    """The part of the README between its heading and the tree; what was not measured is left out."""
    results = newest()
    place = next(iter(results.values()))["machine"]
    dates = sorted({result["date"] for result in results.values()})
    lines = [
        "CPU time over that of the loop by hand: same model, data, order and final loss, in turn on one thread, medians. Peers: with nothing",
        f"logged / with their progress bar and logger. {', '.join(dates)}, {place['cpu']}, torch {place['torch']}.",
        LINKED,
        "",
        *grid(results),
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {text} | {ratio(row)} |" for (name, entrant), text in OTHERS.items() if (row := rows(results, name).get(entrant))]
    told = {text: results.get(name, {}).get("figures", {}).get(figure) for (name, figure), text in FIGURES.items()}
    lines += [f"| {text} | {value:.2f} x |" for text, value in told.items() if value is not None]
    return "\n".join([*lines, "", PROFILE])


def grid(results: Mapping[str, Any]) -> list[str]:
    """Workloads by entrants."""
    found = {name: rows(results, name) for name in WORKLOADS if rows(results, name)}
    shown = [title for title, entrant in COLUMNS.items() if any(cell(one, entrant) != "-" for one in found.values())]
    lines = ["| | By hand | " + " | ".join(shown) + " |", "|---|" + "---|" * (len(shown) + 1)]
    for name, one in found.items():
        beside = one.get(COLUMNS["Treadle"], one["by hand"])  # the loop by hand as it was in the same process
        hand = f"{beside['base_cpu'][1]:.1f} {results[name]['unit']}"
        lines.append("| " + " | ".join([WORKLOADS[name], hand, *(cell(one, COLUMNS[title]) for title in shown)]) + " |")
    return lines


def page() -> str:
    """Every row of the newest results."""
    parts = ["# Results", "", "The newest of each benchmark; made from the JSON files beside it by `python benchmarks/table.py`.", ""]
    for name, result in sorted(newest().items()):
        parts += [table(result)] if "rows" in result else figures(name, result)
    return "\n".join(parts).rstrip() + "\n"


def figures(name: str, result: Mapping[str, Any]) -> list[str]:
    """A benchmark that is no ratio to a base: its figures as they are."""
    head = f"{result['date']}, {result['machine']['cpu']}, Python {result['machine']['python']}, torch {result['machine']['torch']}"
    return [f"### {name}", "", head, "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in result["figures"].items()), ""]


def with_section(readme: str) -> str:
    """A README with the newest figures."""
    before, _, after = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{section()}\n{END}{after.partition(END)[2]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_section(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (RESULTS / "README.md").write_text(page(), encoding="utf-8")
