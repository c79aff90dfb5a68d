"""Number formats: all of them train, and the loss scaler of fp16 is part of the run."""

from functools import partial

import pytest
import torch
from torch import nn

import treadle
from treadle.checkpoint.restore import read_checkpoint

SGD = partial(torch.optim.SGD, lr=0.05)


def config(folder, precision, duration="40 steps", clip=None):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=8,
        clip=clip,
        machine=treadle.MachineConfig(device="cpu", precision=precision),
        checkpoint=treadle.CheckpointConfig(every="1 step"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
    )


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))


def data(size=1.0):
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)) * size
    return x, x.sum(1, keepdim=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_and_keeps_fp32_weights(tmp_path, precision):
    trained, dtypes = model(), set()

    def objective(model, batch):
        output = model(batch[0])
        dtypes.add(output.dtype)
        return nn.functional.mse_loss(output.float(), batch[1])

    treadle.train(trained, objective, data(), optimizer=SGD, config=config(tmp_path / "run", precision))
    losses = [row["train/loss"] for row in treadle.read_journal(tmp_path / "run")]
    assert losses[-1] < losses[0] / 5
    assert dtypes == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {p.dtype for p in trained.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("clip", [1e-2, 1e3])
def test_the_gradient_is_unscaled_before_it_is_clipped_and_measured(tmp_path, precision, clip):
    norms = {}
    for name in ("fp32", precision):
        trainer = treadle.Trainer(
            model(), nn.MSELoss(), data(size=0.1), optimizer=partial(torch.optim.SGD, lr=1.0), config=config(tmp_path / name, name, "1 step", clip)
        )
        trainer.on("step_finished")(lambda run, name=name: norms.update({name: float(run.step.grad_norm)}))
        trainer.fit()
        moved = nn.utils.parameters_to_vector(trainer.model.parameters()) - nn.utils.parameters_to_vector(model().parameters())
        assert moved.norm().item() == pytest.approx(min(clip, norms[name]), rel=1e-4)
    assert norms[precision] == pytest.approx(norms["fp32"], rel=0.02)


def test_the_loss_scaler_is_in_the_checkpoint_and_is_restored(tmp_path):
    whole = treadle.train(model(), nn.MSELoss(), data(), optimizer=SGD, config=config(tmp_path / "whole", "fp16", "6 steps"))

    trainer = treadle.Trainer(model(), nn.MSELoss(), data(), optimizer=SGD, config=config(tmp_path / "cut", "fp16", "6 steps"))

    @trainer.on("step_finished", every="4 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    torch.manual_seed(1)
    cut = treadle.train(model(), nn.MSELoss(), data(), optimizer=SGD, config=config(tmp_path / "cut", "fp16", "6 steps"))

    expected, found = (read_checkpoint(result.last)[0] for result in (whole, cut))
    assert expected["scaler"]["scale"] < 65536 and expected["scaler"]["_growth_tracker"] > 0  # it went both ways
    assert found["scaler"] == expected["scaler"]
    assert all(torch.equal(found["model"][key], value) for key, value in expected["model"].items())


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_the_scale_falls(tmp_path):
    trained = model()
    before = [p.clone() for p in trained.parameters()]
    x, y = data()
    result = treadle.train(trained, nn.MSELoss(), (x, y * 1e4), optimizer=SGD, config=config(tmp_path / "run", "fp16", "1 step"))
    assert read_checkpoint(result.last)[0]["scaler"]["scale"] < 65536
    assert all(torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_is_off_after_an_objective_raised(tmp_path, precision):
    calls = []

    def objective(model, batch):
        calls.append(1)
        if len(calls) > 2:
            raise ZeroDivisionError
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    with pytest.raises(ZeroDivisionError) as caught:
        treadle.train(model(), objective, data(), optimizer=SGD, config=config(tmp_path / "run", precision))
    assert caught.traceback  # whoever keeps the exception keeps its frames
    assert not torch.is_autocast_enabled("cpu")
