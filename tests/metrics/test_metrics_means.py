"""Running means: exact, and the same bits whenever they are fetched."""

import math
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import NonFiniteLoss
from treadle.metrics.means import Means

examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=100)
additions = st.lists(st.tuples(st.sampled_from(["loss", "extra"]), st.floats(-1e3, 1e3, width=32), st.integers(0, 100), st.booleans()), max_size=30)


def add(means, name, value, weight, as_tensor):
    means.add(name, torch.tensor(value) if as_tensor else value, torch.tensor(weight) if as_tensor else weight)


@examples()
@given(added=additions, fetched=st.sets(st.integers(0, 30)))
def test_a_mean_has_the_same_bits_whenever_it_is_fetched(added, fetched):
    late, early = Means(), Means()
    for place, one in enumerate(added):
        add(late, *one)
        add(early, *one)
        if place in fetched:
            early.fetch()
    assert early.window() == late.window()
    assert early.epoch() == late.epoch()


@examples()
@given(added=additions)
def test_a_mean_is_weighted_by_its_counts(added):
    means = Means()
    for one in added:
        add(means, *one)
    expected = {}
    for name in {name for name, _, weight, _ in added if weight}:
        chosen = [(Fraction(value), weight) for found, value, weight, _ in added if found == name]
        expected[name] = float(sum(v * w for v, w in chosen) / sum(w for _, w in chosen))
    assert means.window() == pytest.approx(expected, rel=1e-12, abs=1e-9)


@examples()
@given(added=additions, cut=st.integers(0, 30), window=st.booleans())
def test_means_go_on_from_their_state(added, cut, window):
    whole, before, after = Means(), Means(), Means()
    for place, one in enumerate(added):
        add(whole, *one)
        add(before if place < cut else after, *one)
        if place == cut - 1:
            if window:
                whole.window(), before.window()
            after.load_state_dict(before.state_dict())
    if cut <= len(added) and cut:
        assert after.window() == whole.window()
        assert after.epoch() == whole.epoch()


def test_two_parts_of_one_loss_over_the_same_samples_add_up():
    means = Means()
    means.add("loss", 1.0, 4)
    means.add("loss", 2.0, 4, counted=False)
    means.add("loss", 5.0, 4)
    assert means.window() == {"loss": (1.0 + 2.0 + 5.0) * 4 / 8}


def test_the_window_and_the_epoch_begin_anew_by_themselves():
    means = Means()
    means.add("loss", 1.0, 1)
    assert means.window() == {"loss": 1.0}
    means.add("loss", 3.0, 1)
    assert means.epoch() == {"loss": 2.0}
    assert means.window() == {"loss": 3.0}
    assert means.window() == means.epoch() == {}


def test_what_weighs_nothing_does_not_spoil_a_mean():
    means = Means()
    means.add("loss", math.nan, 0)
    means.add("loss", torch.tensor(2.0), torch.tensor(3))
    assert means.window() == {"loss": 2.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_guarded_or_reported_as_it_is(bad):
    guarded, reported = Means(), Means(guard=False)
    for means in (guarded, reported):
        means.add("loss", torch.tensor(1.0), 1)
        means.add("loss", torch.tensor(bad), 1)
    with pytest.raises(NonFiniteLoss):
        guarded.fetch()
    assert not math.isfinite(reported.window()["loss"])


def test_values_that_nobody_fetches_do_not_pile_up_without_end(monkeypatch):
    fetched = []
    monkeypatch.setattr("treadle.metrics.means.to_host", lambda values: fetched.append(len(values)) or list(values))
    means = Means()
    for _ in range(10_000):
        means.add("loss", torch.ones(()), 1)
    assert len(fetched) == 2
    assert means.window() == {"loss": 1.0}


def test_a_value_that_changes_while_it_waits_is_taken_as_it_was():
    means, value = Means(), torch.tensor(1.0)
    means.add("scale", value, 1)
    value.fill_(5.0)
    assert means.window() == {"scale": 1.0}
