"""Where torch has a scheduler of the same definition, the values are the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from treadle.core.when import Duration, Progress
from treadle.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    linear,
    one_cycle,
    piecewise,
    polynomial,
    step_decay,
)

STEPS = 60
peaks, lengths = st.floats(1e-4, 10), st.integers(2, 70)


def of_torch(peak: float, make: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    """The rate of each step of a loop by hand."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def agree(schedule: Schedule, peak: float, make: Callable[[torch.optim.Optimizer], Any], duration: int = STEPS) -> None:
    ours = [schedule(Progress(Duration.parse(f"{duration} steps"), steps=step)) for step in range(STEPS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch of itself
        expected = of_torch(peak, make)
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-9 * peak)


pytestmark = pytest.mark.filterwarnings("error")
few = settings(max_examples=20, deadline=None)  # the first builds torch's first optimizer


@few
@given(peak=peaks, length=st.integers(STEPS, 200), share=st.floats(0, 0.9))
def test_cosine_is_cosine_annealing(peak: float, length: int, share: float) -> None:
    agree(cosine(peak, end=share * peak), peak, lambda o: lr_scheduler.CosineAnnealingLR(o, length, eta_min=share * peak), length)


@few
@given(peak=peaks, first=st.integers(1, 20), growth=st.integers(1, 3))
def test_cosine_restarts_is_cosine_annealing_with_warm_restarts(peak: float, first: int, growth: int) -> None:
    make = lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, first, growth)  # noqa: E731
    agree(cosine_restarts(peak, every=f"{first} steps", growth=growth), peak, make)


@few
@given(peak=peaks, length=st.integers(STEPS, 200), warmup=st.floats(0.05, 0.9))
def test_one_cycle_is_one_cycle_of_one_step_more_since_torch_counts_the_last_point_as_a_step(peak: float, length: int, warmup: float) -> None:
    share = (warmup * length + 1) / (length + 1)
    agree(one_cycle(peak, warmup), peak, lambda o: lr_scheduler.OneCycleLR(o, peak, total_steps=length + 1, pct_start=share), length)


@few
@given(peak=peaks, every=lengths, factor=st.floats(0.1, 1.0))
def test_exponential_is_step_and_exponential_decay(peak: float, every: int, factor: float) -> None:
    agree(exponential(peak, factor, every=f"{every} steps"), peak, lambda o: lr_scheduler.StepLR(o, every, factor))
    agree(exponential(peak, factor, every="1 step"), peak, lambda o: lr_scheduler.ExponentialLR(o, factor))


@few
@given(peak=peaks, at=st.lists(lengths, min_size=1, max_size=4), factor=st.floats(0.1, 1.0))
def test_step_decay_is_multi_step(peak: float, at: list[int], factor: float) -> None:
    agree(step_decay(peak, factor, [f"{step} steps" for step in at]), peak, lambda o: lr_scheduler.MultiStepLR(o, at, factor))


@few
@given(peak=peaks, length=lengths, power=st.floats(0.5, 3))
def test_polynomial_is_polynomial(peak: float, length: int, power: float) -> None:
    agree(polynomial(peak, power=power, over=f"{length} steps"), peak, lambda o: lr_scheduler.PolynomialLR(o, length, power))


@few
@given(peak=peaks, half=st.integers(1, 20), share=st.floats(0, 0.9), mode=st.sampled_from(["triangular", "triangular2"]))
def test_cyclic_is_cyclic(peak: float, half: int, share: float, mode: Any) -> None:
    shrink = {"triangular": 1.0, "triangular2": 0.5}[mode]
    make = lambda o: lr_scheduler.CyclicLR(o, share * peak, peak, step_size_up=half, mode=mode)  # noqa: E731
    agree(cyclic(share * peak, peak, every=f"{2 * half} steps", shrink=shrink), peak, make)


@few
@given(peak=peaks, at=st.integers(1, 50))
def test_then_is_sequential(peak: float, at: int) -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=at), lr_scheduler.CosineAnnealingLR(optimizer, STEPS - at)]
        return lr_scheduler.SequentialLR(optimizer, parts, [at])

    agree(linear(0.1 * peak, peak).then(cosine(peak), at=f"{at} steps"), peak, make)


def test_piecewise_is_a_multiple_of_constants() -> None:
    make = lambda o: lr_scheduler.LambdaLR(o, lambda n: 1.0 if n < 20 else 0.5 if n < 45 else 0.1)  # noqa: E731
    agree(piecewise(2.0, {"20 steps": 1.0, "45 steps": 0.2}), 2.0, make)


def test_constant_then_linear_is_what_the_formula_says() -> None:
    make = lambda o: lr_scheduler.LambdaLR(o, lambda n: 1.0 if n < 10 else 1 - (n - 10) / (STEPS - 10))  # noqa: E731
    agree(constant(1.0).then(linear(1.0, 0.0), at="10 steps") * 3, 3.0, make)
