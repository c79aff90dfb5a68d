"""The benchmarks: every entrant still runs, the method counts right, and README has the figures that were measured."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pages import ROOT

FOLDER = ROOT / "benchmarks"
OWN = {"harness", "tasks", "peers", "table", "all", "lenet_epoch", "small_gpt"}
# What would take seconds each: compilers, and scripts whose like is run here anyway.
LEFT_OUT = {f"{model}, compile={value}" for model in ("lenet", "gpt") for value in ("True", "auto", "step")}
LEFT_OUT |= {"import torch", "import torch, treadle", "treadle --help", "first step by hand", "first step, treadle, nothing logged"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder's modules can be imported, as when a file of it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in OWN & set(sys.modules):
        del sys.modules[name]


def bench(name: str) -> Any:
    return runpy.run_path(str(FOLDER / f"{name}.py"))["BENCH"]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lenet_epoch", "growth", "compile", "start_up")]


@pytest.mark.parametrize("workload", ["step_overhead", "small_gpt", "watching", "resume_cost", *SLOW])
def test_every_entrant_runs_and_did_the_same_work(workload: str, here: None) -> None:
    found, losses = bench(workload), {}
    for name, entrant in found.entrants.items():
        package = entrant.needs
        if name in LEFT_OUT or (package and package != "torchmetrics"):
            continue
        told = found.once(entrant, found.small)
        assert told["wall"] > 0 and told["cpu"] > 0, name
        losses[name] = told.get("loss")
    assert losses
    near = sys.modules["harness"].NEAR
    for name, loss in losses.items():
        if loss is not None and (expected := losses[found.entrants[name].base]) is not None:
            assert loss == pytest.approx(expected, rel=near), name


@pytest.fixture
def harness(here: None) -> ModuleType:
    import harness

    return harness  # type: ignore[no-any-return]


def one(cpu: float, loss: float | None = 1.0) -> dict[str, Any]:
    return {"wall": 2 * cpu, "cpu": cpu, "loss": loss}


def test_the_figure_is_the_median_of_the_ratios_of_rounds(harness: Any) -> None:
    """Not the ratio of medians: the machine may be ten times as slow in one round as in the other."""
    rounds = [{"base": one(1), "it": one(2)}, {"base": one(10), "it": one(30)}, {"base": one(100), "it": one(100)}]
    assert harness.summary(rounds)["cpu_ratio"] == [1.5, 2.0, 2.5] and harness.summary(rounds)["added"][1] == 1


def test_an_entrant_that_did_other_work_is_shown_as_such(harness: Any) -> None:
    row = {"entrant": "other", **harness.summary([{"base": one(1), "it": one(1, loss=1.002)}])}
    assert not row["same"] and "OTHER LOSS" in harness.cells(row)[-1]
    assert harness.summary([{"base": one(1), "it": one(1, loss=1.0005)}])["same"]
    assert harness.summary([{"base": one(1), "it": one(1, loss=None)}])["same"]


def test_base_and_entrant_are_run_in_turn_and_the_first_round_is_not_counted(harness: Any) -> None:
    order: list[str] = []
    found = harness.Benchmark(__file__, lambda size: size, sizes=(1,), small=(1,), unit="s", scale=1)
    for name in ("by hand", "other"):
        found.add(name, lambda _, name=name: lambda: order.append(name))
    assert len(found.measured("other", rounds=3, sizes=(1,))) == 3
    assert order == ["other", "by hand", "by hand", "other", "other", "by hand", "by hand", "other"]


def test_of_two_sizes_the_cost_is_the_marginal_one(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = harness.Benchmark(__file__, lambda size: size, sizes=(10, 110), small=(1,), unit="us", scale=1e-6)
    found.add("by hand", lambda size: lambda: size)
    monkeypatch.setattr(harness, "_timed", lambda prepare: (1 + prepare()() * 1e-3, 2 + prepare()() * 2e-3, None))
    told = found.once(found.entrants["by hand"], found.sizes)
    assert told["wall"] == pytest.approx(1000) and told["cpu"] == pytest.approx(2000)


def test_results_of_today_keep_what_was_not_measured_again(harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    first = [{"entrant": "a", "cpu": 1}, {"entrant": "b", "cpu": 1}]
    harness.save({"benchmark": "x", "date": "2026-01-01", "rows": first})
    harness.save({"benchmark": "x", "date": "2026-01-01", "rows": [{"entrant": "b", "cpu": 2}, {"entrant": "a", "skipped": "not installed"}]})
    assert json.loads((tmp_path / "2026-01-01-x.json").read_text())["rows"] == [{"entrant": "a", "cpu": 1}, {"entrant": "b", "cpu": 2}]


def test_a_workload_is_a_command_and_a_peer_that_is_missing_is_left_out(tmp_path: Path) -> None:
    code = "import sys, runpy, importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'ignite' else find(n); "
    code += (
        f"sys.path.insert(0, r'{FOLDER}'); sys.argv = ['x', '--small', '--rounds', '1', '--only', 'by hand, no optimizer', 'ignite, everything']; "
    )
    code += f"runpy.run_path(r'{FOLDER / 'step_overhead.py'}', run_name='__main__')"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "| ignite, everything | skipped | ignite is not installed |" in out
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| by hand")] == ["| by hand", "| by hand, no optimizer"]


def test_the_readme_has_the_newest_results(here: None) -> None:
    import table

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == table.with_section(readme), "run: python benchmarks/table.py"
    assert (FOLDER / "results" / "README.md").read_text(encoding="utf-8") == table.page(), "run: python benchmarks/table.py"
