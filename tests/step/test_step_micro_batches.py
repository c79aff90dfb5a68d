"""Cutting a batch into micro-batches changes nothing but rounding."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import treadle
from treadle.data.batch import Batch, split
from treadle.step.step import Step
from treadle.system.precision import Precision

IGNORED = -100
exactly = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
examples = partial(settings, derandomize=True, deadline=None, database=None)


class Noted(torch.optim.Optimizer):
    """An optimizer that moves nothing and notes the gradients it was given."""

    def __init__(self, params):
        super().__init__(params, {})
        self.steps = []

    def step(self):
        self.steps.append([None if p.grad is None else p.grad.clone() for group in self.param_groups for p in group["params"]])


def gradients(model, objective, batch, size, clip=None):
    """What an optimizer sees of a batch that is cut into parts of a size, and the step."""
    losses = []
    step = Step(lambda name, value, weight, counted=True: losses.append((name, value, weight)), Precision("fp32", torch.device("cpu")))
    samples = len(batch[0])
    parts, counts = split(batch, samples, size)
    step.begin(1, Batch(parts, counts, samples, False), {})
    optimizer = Noted(model.parameters())
    for part in step:
        step.backward(objective(model, part))
    step.update(optimizer, clip=clip)
    return optimizer.steps[0], step, losses


@st.composite
def token_batches(draw):
    """Classes for (N, T) tokens with uneven gaps, of which at least one counts; and a size to cut the batch into."""
    samples, tokens = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    labels = st.sampled_from([0, 1, 2, IGNORED])
    rows = draw(st.lists(st.lists(labels, min_size=tokens, max_size=tokens), min_size=samples, max_size=samples))
    rows[draw(st.integers(0, samples - 1))][0] = draw(st.integers(0, 2))
    return torch.tensor(rows), draw(st.integers(1, samples))


@pytest.mark.parametrize("weight", [None, [0.2, 1.0, 3.0]], ids=["plain", "class weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@examples(max_examples=60)
@given(batch=token_batches())
def test_token_gradients_do_not_depend_on_the_micro_batch(weight, smoothing, batch):
    target, size = batch
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 1).double()
    loss = nn.CrossEntropyLoss(weight=None if weight is None else torch.tensor(weight).double(), ignore_index=IGNORED, label_smoothing=smoothing)
    input = torch.randn(target.shape[0], 2, target.shape[1], dtype=torch.float64)
    expected = torch.autograd.grad(loss(model(input), target), list(model.parameters()))
    found, _, _ = gradients(model, treadle.supervised(loss), (input, target), size)
    exactly(found, list(expected))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 100])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss()], ids=lambda loss: type(loss).__name__)
def test_sample_mean_gradients_do_not_depend_on_the_micro_batch(loss, size):
    torch.manual_seed(0)
    model, input, target = nn.Linear(3, 2).double(), torch.randn(8, 3).double(), torch.randn(8, 2).double()
    expected = torch.autograd.grad(loss(model(input), target), list(model.parameters()))
    exactly(gradients(model, treadle.supervised(loss), (input, target), size)[0], list(expected))


def test_a_micro_batch_in_which_everything_is_ignored_has_no_share():
    torch.manual_seed(0)
    model, input = nn.Conv1d(2, 3, 1).double(), torch.randn(4, 2, 2).double()
    target = torch.tensor([[IGNORED, IGNORED], [IGNORED, IGNORED], [0, 1], [2, IGNORED]])
    loss = nn.CrossEntropyLoss(ignore_index=IGNORED)
    expected = torch.autograd.grad(loss(model(input), target), list(model.parameters()))
    exactly(gradients(model, treadle.supervised(loss), (input, target), 2)[0], list(expected))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", [None, 2])
def test_a_batch_in_which_everything_is_ignored_moves_nothing_and_stops_nothing(tmp_path, precision, size):
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    before = [p.clone() for p in model.parameters()]
    config = treadle.Config(
        run_dir=str(tmp_path / "run"),
        duration="2 steps",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu", micro_batch=size, precision=precision),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    data = (torch.randn(4, 2), torch.full((4,), IGNORED))
    result = treadle.train(model, nn.CrossEntropyLoss(), data, optimizer=partial(torch.optim.SGD, lr=1.0), config=config)
    assert result.status == "finished"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@examples(max_examples=40)
@given(counts=st.lists(st.integers(1, 50), min_size=8, max_size=8), size=st.integers(1, 8))
def test_an_objective_that_counts_by_itself_is_averaged_over_its_counts(counts, size):
    weights = torch.tensor(counts, dtype=torch.float64)
    torch.manual_seed(0)
    model, input = nn.Linear(3, 1).double(), torch.randn(8, 3).double()

    def objective(model, batch):
        x, w = batch
        return treadle.Outcome((model(x).square().squeeze(1) * w).sum() / w.sum(), count=w.sum())

    expected = torch.autograd.grad((model(input).square().squeeze(1) * weights).sum() / weights.sum(), list(model.parameters()))
    exactly(gradients(model, objective, (input, weights), size)[0], list(expected))


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1e6])
@pytest.mark.parametrize("size", [None, 1, 3])
def test_the_gradient_is_clipped_once_as_torch_clips_the_big_batch(clip, size):
    torch.manual_seed(0)
    model, input, target = nn.Linear(3, 2).double(), torch.randn(8, 3).double(), torch.randn(8, 2).double()
    F.mse_loss(model(input), target).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    found, step, _ = gradients(model, treadle.supervised(nn.MSELoss()), (input, target), size, clip=clip)
    exactly(found, expected)
    exactly(step.grad_norm, norm)


def test_the_loss_and_the_logs_of_a_step_are_weighted_by_their_counts():
    model = nn.Linear(1, 1)

    def objective(model, batch):
        return treadle.Outcome(model(batch[0]).sum() * 0 + batch[1].mean(), count=len(batch[0]), logs={"extra": batch[1].mean() * 2})

    _, _, recorded = gradients(model, objective, (torch.zeros(3, 1), torch.tensor([1.0, 2.0, 6.0])), 2)
    for name, factor in (("loss", 1), ("extra", 2)):
        values = [(float(value), weight) for found, value, weight in recorded if found == name]
        assert sum(value * weight for value, weight in values) / sum(weight for _, weight in values) == pytest.approx(3.0 * factor)


def train(folder, micro_batch, **given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = (torch.randn(50, 4).double(), torch.randint(0, 3, (50,)))
    config = treadle.Config(
        run_dir=str(folder),
        duration="3 epochs",
        batch_size=16,  # the last batch of an epoch has 2
        clip=0.5,
        machine=treadle.MachineConfig(device="cpu", micro_batch=micro_batch),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
    )
    treadle.train(model, nn.CrossEntropyLoss(), data, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), config=config, **given)
    return list(model.parameters()), [row["train/loss"] for row in treadle.read_journal(folder)]


@pytest.mark.parametrize("micro_batch", [1, 5, 15, 16])
def test_a_whole_run_with_an_uneven_last_batch_does_not_depend_on_the_micro_batch(tmp_path, micro_batch):
    weights, losses = train(tmp_path / "whole", None)
    cut_weights, cut_losses = train(tmp_path / "cut", micro_batch)
    exactly(cut_weights, weights)
    assert len(losses) == 12
    assert cut_losses == pytest.approx(losses, rel=1e-12)
