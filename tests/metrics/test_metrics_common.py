"""The usual metrics against brute force, however the data is cut into batches."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import ObjectiveError
from treadle.metrics import Accuracy, ConfusionMatrix, Mean

examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=80)


@st.composite
def answers(draw):
    """Distinct scores of shape (N, C, T), targets of shape (N, T) with gaps, and places to cut at."""
    samples, classes, tokens = draw(st.integers(1, 12)), draw(st.integers(2, 5)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scores = torch.randperm(samples * classes * tokens, generator=generator).view(samples, classes, tokens).float()
    target = torch.randint(-1, classes, (samples, tokens), generator=generator)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, samples - 1)), max_size=4)))
    return scores, target, cuts


def fed(metric, output, target, cuts):
    """A metric's result over batches that end at the cuts."""
    metric.update(output[:0], target[:0])
    for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True):
        metric.update(output[start:end], target[start:end])
    return metric.compute()


@examples()
@given(case=answers(), top_k=st.integers(1, 2), ignore=st.booleans())
def test_accuracy_is_the_share_of_targets_among_the_first_answers(case, top_k, ignore):
    scores, target, cuts = case
    hits = total = 0
    for n in range(target.shape[0]):
        for t in range(target.shape[1]):
            if ignore and target[n, t] == -1:
                continue
            first = sorted(range(scores.shape[1]), key=lambda c: -float(scores[n, c, t]))[:top_k]
            hits, total = hits + (int(target[n, t]) in first), total + 1
    found = fed(Accuracy(top_k=top_k, ignore_index=-1 if ignore else None), scores, target, cuts)
    assert found == hits / total if total else math.isnan(found)


@examples()
@given(case=answers())
def test_confusion_matrix_counts_every_pair(case):
    scores, target, cuts = case
    target = target.clamp(min=0)
    classes = scores.shape[1]
    expected = torch.zeros(classes, classes, dtype=torch.int64)
    for n in range(target.shape[0]):
        for t in range(target.shape[1]):
            expected[target[n, t], max(range(classes), key=lambda c: float(scores[n, c, t]))] += 1
    assert torch.equal(fed(ConfusionMatrix(classes), scores, target, cuts), expected)
    assert torch.equal(fed(ConfusionMatrix(classes), scores.argmax(1), target, cuts), expected)


@examples()
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), size=st.integers(1, 40))
def test_mean_is_over_elements_and_not_over_batches(values, size):
    output = torch.tensor(values)
    metric = Mean(lambda output, target: (output - target).abs())
    for part in output.split(size):
        metric.update(part, torch.zeros_like(part))
    assert metric.compute() == pytest.approx(math.fsum(map(abs, output.tolist())) / len(values), rel=1e-12)


METRICS = [Accuracy(), Accuracy(top_k=2, ignore_index=-1), ConfusionMatrix(5), Mean(lambda output, target: output)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
def test_a_metric_goes_on_from_its_state_and_forgets_at_reset(metric):
    output, target = torch.randn(20, 5), torch.randint(0, 5, (20,))
    metric.reset()
    metric.update(output[:9], target[:9])
    state = metric.state_dict()
    metric.update(output[9:], target[9:])
    expected = metric.compute()
    metric.reset()
    metric.load_state_dict(state)
    metric.update(output[9:], target[9:])
    assert torch.equal(torch.as_tensor(metric.compute()), torch.as_tensor(expected))
    metric.reset()
    metric.update(output[:3], target[:3])
    alone = metric.compute()
    metric.reset()
    assert not torch.equal(torch.as_tensor(metric.compute()), torch.as_tensor(alone))


@pytest.mark.parametrize("metric", [Accuracy(), Mean(lambda output, target: output)], ids=["Accuracy", "Mean"])
def test_a_mean_over_nothing_is_nan(metric):
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
    ("output", "target"),
    [(torch.zeros(4, 3), torch.zeros(5)), (torch.zeros(4, 3, 2), torch.zeros(4)), (torch.zeros(4, 3, 2), torch.zeros(4, 3))],
)
@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(3)], ids=lambda metric: type(metric).__name__)
def test_shapes_that_do_not_fit_are_refused_with_both_shown(metric, output, target):
    with pytest.raises(ObjectiveError) as caught:
        metric.update(output, target.long())
    assert f"output {list(output.shape)} and target {list(target.shape)}" in str(caught.value)


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("side", ["output", "target"])
def test_a_class_outside_of_the_confusion_matrix_is_refused(wrong, side):
    given = {"output": torch.tensor([0, 1]), "target": torch.tensor([0, 1])} | {side: torch.tensor([0, wrong])}
    with pytest.raises(ObjectiveError, match=f"class {wrong} is out of range"):
        ConfusionMatrix(3).update(**given)


def test_accuracy_refuses_a_top_k_below_one():
    with pytest.raises(ObjectiveError, match="top_k must be at least 1, got 0"):
        Accuracy(top_k=0)
