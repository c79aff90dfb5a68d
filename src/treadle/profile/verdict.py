"""The verdict: what most of the time goes to, and what to change. Every number in it is measured, or computed from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from treadle.profile.measured import Measured, Module
from treadle.profile.outlier import outlier, without
from treadle.profile.phases import (
    BACKWARD,
    CHECKPOINT,
    EVALUATION,
    FORWARD,
    HANDLERS,
    LOGGING,
    METRICS,
    OPTIMIZER,
    OTHER,
    PREPARING,
    TRANSFER,
    WAIT,
)

_NOTABLE, _MUCH = 0.10, 0.25
"""Shares from which a side matter is worth a word, and from which it is the matter."""
_IDLE = 0.4
_FAT = 0.4
"""Share of one module in the time of all, from which it is named."""
_GAIN = 1.1
"""Who changes something wants at least this factor."""
_NEAR = 1.05
_SHORT_S = 1e-3
_ROWS_EVERY = 50


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Args:
        bound: by what: "data-bound", "compute-bound", ...
        why: one sentence with the numbers.
        advice: what to change, the most useful first.
        notes: what a reader has to know about how far this goes.
    """

    bound: str
    why: str
    advice: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(measured: Measured) -> Verdict:
    """Say where the time goes, and what to change; what happened once, such as the first picture drawn, is no advice to anybody."""
    index, notes = outlier(measured), list(_notes(measured))
    if index is not None:
        whole = measured
        measured, spent = without(whole, index)
        notes.append(_alone(whole, index, spent))
    main = _main(measured)
    advice = list(main.advice(measured))
    for other in sorted(_MATTERS, key=lambda one: -measured.share(*one.phases)):
        if other is not main and measured.share(*other.phases) >= other.notable:
            advice += [f"{other.why(measured)}; {words}" for words in other.advice(measured)][:1]
    return Verdict(main.bound, main.why(measured), advice, notes)


def _main(measured: Measured) -> _Matter:
    """What takes most of the time; data that does not come is it before that, since all of it can be saved."""
    first = max(_MATTERS, key=lambda one: measured.share(*one.phases))
    share = measured.share(*first.phases)
    if share >= measured.share(FORWARD, BACKWARD) or (first.bound in ("data-bound", "transfer-bound") and share >= _MUCH):
        return first
    return _LAUNCHING if _idle(measured) >= _IDLE else _COMPUTING


@dataclass(frozen=True)
class _Matter:
    """Something that may take the time."""

    bound: str
    phases: tuple[str, ...]
    why: Callable[[Measured], str]
    advice: Callable[[Measured], Iterator[str]]
    notable: float = _NOTABLE


def with_workers(measured: Measured, workers: int) -> float:
    """Seconds a step with so many loading processes, at best.

    The slowest of three: the steps without their waiting, the loading shared by the workers, and on a CPU all of the work
    shared by its cores.
    """
    load = measured.data.load_s
    assert load is not None
    rest = measured.mean_s * (1 - measured.share(WAIT))
    cores = (rest * measured.threads + load) / measured.cores if measured.gpu is None else load / measured.cores
    return max(rest, load / workers, cores)


def _best_workers(measured: Measured) -> int:
    """The fewest workers that are nearly as good as any number of them."""
    counts = range(1, min(8, measured.cores) + 1)
    least = min(with_workers(measured, count) for count in counts)
    return next(count for count in counts if with_workers(measured, count) <= least * _NEAR)


# --- data ---


def _why_data(measured: Measured) -> str:
    text = f"{_percent(measured.share(WAIT))} of the time waits for data"
    if measured.data.load_s is None:
        return text
    rest = measured.mean_s * (1 - measured.share(WAIT))
    return f"{text}: one process takes {_ms(measured.data.load_s)} to make a batch, the rest of a step takes {_ms(rest)}"


def _data(measured: Measured) -> Iterator[str]:
    data = measured.data
    if data.kind == "tensors":
        yield "the data is in memory and read a batch at a time already: larger batches, or smaller samples, cost less; workers do not help"
    elif data.kind == "indexed" and data.load_s is not None:
        count = _best_workers(measured)
        seconds = with_workers(measured, count)
        key = f"num_workers={count} of the DataLoader" if data.of_loader else f"machine.workers={count}"
        if count != data.workers and measured.mean_s / seconds >= _GAIN:
            rate = measured.samples / measured.steps / seconds
            yield f"{key} would reach at best {rate:,.0f} samples/s (now {measured.rate:,.0f})"
            if seconds > _NEAR * (measured.mean_s * (1 - measured.share(WAIT))):
                yield "and then it would still wait: make a sample cheaper, or prepare it once and keep it"
        else:
            yield f"{measured.cores} cores are too few for more workers to help; make a sample cheaper, or prepare it once and keep it"
    elif data.kind == "streamed":
        yield "machine.workers=1 reads the stream beside the steps" if not data.workers else "the stream itself is slow: make a sample cheaper"
    else:
        yield "batches come ready-made from your own code: make them beside the steps, for example with a DataLoader that has workers"


def _transfer(measured: Measured) -> Iterator[str]:
    if measured.data.kind == "tensors":
        yield "the data is in memory: machine.resident=true keeps it on the device"
    yield "send less: uint8 in place of float32 is a quarter, and the device can convert it"


def _preparing(measured: Measured) -> Iterator[str]:
    yield "prepare is called for each batch, on the device of the training: do once what is the same each time"


# --- side matters ---


def _logging(measured: Measured) -> Iterator[str]:
    if not measured.rows:
        yield "values are logged often: run.log with every= in place of at each step"
        return
    each = measured.phases[LOGGING] / measured.rows
    if measured.steps / measured.rows < _ROWS_EVERY / _GAIN:
        now, then = measured.mean_s, measured.mean_s - measured.phases[LOGGING] / measured.steps + each / _ROWS_EVERY
        every = measured.settings["log.every"]
        yield f'a row takes {_ms(each)}, and log.every is "{every}": "{_ROWS_EVERY} steps" would make a step {_ms(then)} (now {_ms(now)})'
    else:
        yield f"a row takes {_ms(each)}: log fewer values, or drop a writer"


def _optimizer(measured: Measured) -> Iterator[str]:
    batch = measured.samples / measured.steps
    update = measured.phases.get(OPTIMIZER, 0.0) / measured.steps
    rate = 2 * batch / (2 * (measured.mean_s - update) + update)
    text = f"an update takes {_ms(update)} whatever the batch"
    if rate >= _GAIN * measured.rate:
        text += f": batches of {2 * batch:,.0f} would reach at least {rate:,.0f} samples/s (now {measured.rate:,.0f}), but train otherwise"
    yield text
    if measured.device.startswith("cuda"):
        yield "fused=True of the optimizer makes one kernel of many"


def _metrics(measured: Measured) -> Iterator[str]:
    yield "metrics of the training outputs are optional: log.train_metrics=false"


def _evaluation(measured: Measured) -> Iterator[str]:
    yield f"evaluate.every is {measured.settings['evaluate.every']}: evaluate less often, or in larger batches (evaluate.batch_size)"


def _checkpoint(measured: Measured) -> Iterator[str]:
    every = measured.settings["checkpoint.every"]
    yield f"checkpoint.every is {every}: save less often; a handler of checkpoint_saved makes training wait for the disk"


def _handlers(measured: Measured) -> Iterator[str]:
    yield 'handlers are called at every step: register them with every="50 steps"'


def _other(measured: Measured) -> Iterator[str]:
    if measured.mean_s < _SHORT_S:
        yield f"a step takes only {_ms(measured.mean_s)}: a larger batch makes more of each"
    else:
        yield "trace.json shows what it is made of; it is usually less, and a report of it is welcome"


# --- computing ---


def _why_computing(measured: Measured) -> str:
    text = f"{_percent(measured.share(FORWARD, BACKWARD))} of the time is forward and backward"
    fat = fattest(measured)
    if fat is None:
        return text
    share = fat.own_s / _in_modules(measured)
    return f"{text}; {_percent(share)} of that in modules is {fat.name} ({fat.type})" if share >= _FAT else text


def _computing(measured: Measured) -> Iterator[str]:
    outside = _outside(measured)
    if outside >= _MUCH:
        yield f"{_percent(outside)} of forward and backward is outside of the model's modules: the loss, or your own code in the step"
    if measured.gpu is not None and measured.settings["machine.precision"] == "fp32":
        yield "try machine.precision=bf16: this GPU computes it faster"
    if not measured.settings["machine.compile"]:
        yield "machine.compile=true makes some models faster and others slower: profile again with it"


def _launching_advice(measured: Measured) -> Iterator[str]:
    yield "give the GPU more at a time: a larger batch; machine.compile=true makes fewer, larger kernels"


def fattest(measured: Measured) -> Module | None:
    """The module that takes most time by itself, of those that compute; None where modules cannot be told apart."""
    return max((one for one in measured.modules if not one.container), key=lambda one: one.own_s, default=None)


def _in_modules(measured: Measured) -> float:
    return sum(one.own_s for one in measured.modules)


def _outside(measured: Measured) -> float:
    """What part of forward and backward is in no module; that was looked at in other steps, so it is no more than a hint."""
    if not measured.modules:
        return 0.0
    return 1 - _in_modules(measured) / (measured.mean_s * measured.share(FORWARD, BACKWARD))


def _idle(measured: Measured) -> float:
    """What part of the time the GPU has nothing to do."""
    return 0.0 if measured.busy_s is None else max(0.0, 1 - measured.busy_s / measured.mean_s)


# --- how far it goes ---


def _notes(measured: Measured) -> Iterator[str]:
    absent = [
        name
        for name, seen in (("row", measured.rows), ("evaluation", EVALUATION in measured.phases), ("checkpoint", CHECKPOINT in measured.phases))
        if not seen
    ]
    if absent:
        yield f"in these {measured.steps} steps was no {', no '.join(absent)}; with more --steps there is"
    if measured.settings["machine.compile"]:
        yield "the model is compiled, so its modules cannot be told apart: machine.compile=false shows them"
    if measured.cost_s > _NOTABLE * measured.mean_s:
        yield f"measuring itself takes about {_ms(measured.cost_s)} of a step"


def _alone(measured: Measured, index: int, spent: dict[str, float]) -> str:
    most = max(spent, key=lambda name: spent[name])
    return (
        f"step {index + 1} alone took {_ms(measured.step_s[index])} of all {_ms(measured.wall_s)}, {_ms(spent[most])} of it {most}; it is in "
        "the table and not in the verdict: more --steps show whether it comes again"
    )


def _of(*phases: str, what: str) -> Callable[[Measured], str]:
    return lambda measured: f"{_percent(measured.share(*phases))} of the time {what}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(seconds: float) -> str:
    """Seconds as milliseconds, in three digits.

    Example:
        >>> _ms(0.0123456), _ms(0.0000123)
        ('12.3 ms', '0.0123 ms')
    """
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"


_COMPUTING = _Matter("compute-bound", (FORWARD, BACKWARD), _why_computing, _computing)
_LAUNCHING = _Matter(
    "launch-bound",
    (FORWARD, BACKWARD),
    lambda m: f"the GPU has nothing to do for {_percent(_idle(m))} of the time, and no data is waited for",
    _launching_advice,
)
_MATTERS = (
    _Matter("data-bound", (WAIT,), _why_data, _data),
    _Matter("transfer-bound", (TRANSFER,), _of(TRANSFER, what="copies batches to the device"), _transfer),
    _Matter("preparation-bound", (PREPARING,), _of(PREPARING, what="prepares batches"), _preparing),
    _Matter("optimizer-bound", (OPTIMIZER,), _of(OPTIMIZER, what="is the optimizer"), _optimizer),
    _Matter("metrics-bound", (METRICS,), _of(METRICS, what="is metrics of the training outputs"), _metrics),
    _Matter("logging-bound", (LOGGING,), _of(LOGGING, what="is logging"), _logging),
    _Matter("evaluation-bound", (EVALUATION,), _of(EVALUATION, what="is evaluation"), _evaluation),
    _Matter("checkpoint-bound", (CHECKPOINT,), _of(CHECKPOINT, what="waits for checkpoints"), _checkpoint),
    _Matter("handler-bound", (HANDLERS,), _of(HANDLERS, what="is handlers of events"), _handlers),
    _Matter("overhead-bound", (OTHER,), _of(OTHER, what="is the loop's own bookkeeping"), _other, notable=_MUCH),
)
