"""The verdict: planted causes are named, and each number in it follows from what was measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from spending import TIME, Net, Slow, SlowSGD, SlowWriter, config, profiled, trainer
from treadle.profile.measured import Data, Measured, Module
from treadle.profile.phases import BACKWARD, CHECKPOINT, EVALUATION, FORWARD, LOGGING, OPTIMIZER, OTHER, TRANSFER, WAIT
from treadle.profile.verdict import fattest, judge, with_workers

SETTINGS = {
    "batch_size": 10,
    "log.every": "50 steps",
    "log.train_metrics": True,
    "machine.compile": False,
    "machine.precision": "fp32",
    "checkpoint.every": "1 epoch",
    "evaluate.every": "1 epoch",
}


def measured(phases: dict[str, float], **more: Any) -> Measured:
    """Ten steps of ten samples, with the milliseconds that a step spends in each phase."""
    facts: dict[str, Any] = {
        "steps": 10, "warmup": 3, "inside": 3, "samples": 100, "rows": 1, "busy_s": None, "cost_s": 0.0, "device": "cpu", "gpu": None,
        "threads": 1, "cores": 4, "step_s": [], "timeline": [], "data": Data("indexed", 0, 0.020),
    }  # fmt: skip
    seconds = {name: 10 * ms / 1000 for name, ms in phases.items()}
    return Measured(**{**facts, "settings": SETTINGS, **more}, phases=seconds, host=seconds, wall_s=sum(seconds.values()))


# --- planted programs ---


def test_a_slow_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 samples of 5 ms against a step of 8 ms: 5 workers hide it, if there are cores for them."""
    found = replace(profiled(lambda: trainer(Slow(0.005)).fit(), monkeypatch), cores=16)
    verdict = judge(found)
    assert verdict.bound == "data-bound"
    assert verdict.why == "83 % of the time waits for data: one process takes 40 ms to make a batch, the rest of a step takes 8 ms"
    assert verdict.advice == ["machine.workers=5 would reach at best 1,000 samples/s (now 167)"]


def test_a_heavy_forward_and_the_fat_module_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = profiled(lambda: trainer(model=lambda: Net(thin=0.001, fat=0.030)).fit(), monkeypatch)
    verdict = judge(found)
    assert max(found.modules, key=lambda one: one.own_s).name == "fat"
    assert verdict.bound == "compute-bound"
    assert verdict.why == "99 % of the time is forward and backward; 98 % of that in modules is fat (Spends)"


def test_an_optimizer_that_is_slower_than_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judge(profiled(lambda: trainer(Slow(0.0), optimizer=SlowSGD).fit(), monkeypatch))
    assert (verdict.bound, verdict.why) == ("optimizer-bound", "86 % of the time is the optimizer")
    # 8 samples in 58 ms now; 16 in 8 + 8 + 50
    assert "an update takes 50 ms whatever the batch: batches of 16 would reach at least 242 samples/s (now 138)" in verdict.advice[0]


def test_a_row_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(log={"every": "1 step"})
    verdict = judge(profiled(lambda: trainer(Slow(0.0), writers=[SlowWriter()], config=made).fit(), monkeypatch))
    assert (verdict.bound, verdict.why) == ("logging-bound", "71 % of the time is logging")
    assert verdict.advice == ['a row takes 20 ms, and log.every is "1 step": "50 steps" would make a step 8.4 ms (now 28 ms)']


def test_work_outside_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def objective(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        TIME.spend(0.1)
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    from treadle import Trainer

    def program() -> None:
        Trainer(Net, objective, Slow(0.0), optimizer=torch.optim.SGD, config=config()).fit()

    verdict = judge(profiled(program, monkeypatch))
    assert verdict.advice[0] == "93 % of forward and backward is outside of the model's modules: the loss, or your own code in the step"


# --- computed from what was measured ---


@pytest.mark.parametrize(
    ("workers", "cores", "threads", "ms"),
    [
        (1, 8, 1, 20.0),  # the worker is slower than the step
        (4, 8, 1, 5.0),  # the steps without their waiting
        (4, 2, 2, 15.0),  # the work of both, shared by two cores
    ],
)
def test_what_workers_would_reach(workers: int, cores: int, threads: int, ms: float) -> None:
    assert with_workers(measured({WAIT: 20, FORWARD: 5}, cores=cores, threads=threads), workers) == pytest.approx(ms / 1000)


def test_on_a_gpu_the_cores_are_free_for_loading() -> None:
    assert with_workers(measured({WAIT: 20, FORWARD: 5}, cores=4, threads=4, gpu="one"), 4) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data("indexed", 0, 0.020), "machine.workers=4 would reach at best 1,600 samples/s (now 400)"),
        (Data("indexed", 0, 0.020, of_loader=True), "num_workers=4 of the DataLoader would reach at best"),
        (Data("indexed", 4, 0.080), "4 cores are too few for more workers to help"),
        (Data("tensors", 0, 0.020), "workers do not help"),
        (Data("streamed", 0), "machine.workers=1 reads the stream beside the steps"),
        (Data("streamed", 1), "the stream itself is slow"),
        (Data("batched", 0), "batches come ready-made from your own code"),
    ],
)
def test_each_kind_of_data_has_its_own_advice(data: Data, words: str) -> None:
    verdict = judge(measured({WAIT: 20, FORWARD: 5}, data=data))
    assert verdict.bound == "data-bound"
    assert words in verdict.advice[0]


def test_what_workers_do_not_hide_is_said() -> None:
    assert len(judge(measured({WAIT: 20, FORWARD: 7})).advice) == 1  # 3 or 4 workers hide 20 ms behind 7 ms
    assert judge(measured({WAIT: 20, FORWARD: 1})).advice[1].startswith("and then it would still wait")


def test_waiting_is_the_matter_before_it_is_the_larger_part() -> None:
    assert judge(measured({WAIT: 30, FORWARD: 70})).bound == "data-bound"
    assert judge(measured({OPTIMIZER: 30, FORWARD: 70})).bound == "compute-bound"


def test_side_matters_are_told_after_the_main_one() -> None:
    verdict = judge(measured({FORWARD: 60, OPTIMIZER: 20, EVALUATION: 15, CHECKPOINT: 5}))
    assert verdict.bound == "compute-bound"
    assert [words.partition(";")[0] for words in verdict.advice[1:]] == ["20 % of the time is the optimizer", "15 % of the time is evaluation"]


@pytest.mark.parametrize(
    ("phases", "bound"),
    [
        ({TRANSFER: 30, FORWARD: 60}, "transfer-bound"),
        ({LOGGING: 80, FORWARD: 10}, "logging-bound"),
        ({EVALUATION: 80, FORWARD: 10}, "evaluation-bound"),
        ({CHECKPOINT: 80, FORWARD: 10}, "checkpoint-bound"),
        ({OTHER: 0.08, FORWARD: 0.02}, "overhead-bound"),
        ({FORWARD: 40, BACKWARD: 60}, "compute-bound"),
    ],
)
def test_the_largest_phase_is_what_it_is_bound_by(phases: dict[str, float], bound: str) -> None:
    assert judge(measured(phases)).bound == bound


def test_a_gpu_that_waits_for_its_host() -> None:
    phases = {FORWARD: 5.0, BACKWARD: 5.0}
    assert (
        judge(measured(phases, gpu="one", device="cuda:0", busy_s=0.002)).why
        == "the GPU has nothing to do for 80 % of the time, and no data is waited for"
    )
    busy = judge(measured(phases, gpu="one", device="cuda:0", busy_s=0.009))
    assert (busy.bound, busy.advice[0]) == ("compute-bound", "try machine.precision=bf16: this GPU computes it faster")


def test_notes_say_what_was_not_seen() -> None:
    assert judge(measured({FORWARD: 1.0}, rows=0)).notes == ["in these 10 steps was no row, no evaluation, no checkpoint; with more --steps there is"]
    costly = judge(measured({FORWARD: 0.1, EVALUATION: 0.1, CHECKPOINT: 0.1}, cost_s=0.0001)).notes
    assert costly == ["measuring itself takes about 0.1 ms of a step"]
    compiled = judge(measured({FORWARD: 1.0, EVALUATION: 1, CHECKPOINT: 1}, settings={**SETTINGS, "machine.compile": True}))
    assert "the model is compiled" in compiled.notes[0]
    assert not any("machine.compile=true" in words for words in compiled.advice)


def test_a_model_whose_modules_are_not_known_is_judged_all_the_same() -> None:
    assert judge(measured({FORWARD: 1.0})).why == "100 % of the time is forward and backward"
    even = [Module(name, "Linear", 1, 0.001, 0.001, 0.001, 0.001, 0, 0) for name in "abc"]
    assert judge(measured({FORWARD: 6.0}, modules=even)).why == "100 % of the time is forward and backward"


def test_a_container_is_never_the_fat_module() -> None:
    box = Module("body", "Sequential", 1, 0.009, 0.009, 0.002, 0.002, 0, 0, container=True)
    parts = [Module(name, "Linear", 1, 0.001, 0.001, 0.001, 0.001, 0, 0) for name in "ab"]
    found = measured({FORWARD: 8.0}, modules=[box, *parts])
    assert max(found.modules, key=lambda one: one.own_s) is box
    assert judge(found).why == "100 % of the time is forward and backward"
    assert fattest(replace(found, modules=[box])) is None


@pytest.mark.parametrize(("other", "said"), [(20, False), (26, True)])
def test_bookkeeping_is_worth_a_word_where_it_is_much(other: float, said: bool) -> None:
    advice = judge(measured({FORWARD: 100 - other, OTHER: other})).advice
    words = "is the loop's own bookkeeping; trace.json shows what it is made of; it is usually less, and a report of it is welcome"
    assert (f"{other} % of the time {words}" in advice) is said
    assert any("bookkeeping" in one for one in advice) is said


def test_a_step_that_was_long_once_gives_no_advice_and_is_named() -> None:
    lines = [(FORWARD, 0.01 * n, 0.01 * n + 0.01) for n in range(9)] + [(LOGGING, 0.09, 0.59)]
    found = replace(measured({FORWARD: 9, LOGGING: 50}, rows=2), step_s=[0.01] * 9 + [0.5], timeline=lines, wall_s=0.59)
    verdict = judge(found)
    assert (verdict.bound, verdict.why) == ("compute-bound", "100 % of the time is forward and backward")
    assert not any("log" in words for words in verdict.advice)
    assert "step 10 alone took 500 ms of all 590 ms, 500 ms of it logging" in verdict.notes[-1]


def test_long_steps_that_come_again_are_part_of_the_verdict() -> None:
    found = replace(measured({FORWARD: 8, LOGGING: 100}, rows=2), step_s=[0.01] * 8 + [0.5] * 2)
    assert judge(found).bound == "logging-bound"
