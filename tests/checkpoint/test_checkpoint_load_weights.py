"""load_weights: the weights of any checkpoint into a model, or a list of what does not fit."""

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import treadle
from treadle.core.errors import CheckpointError


class Net(nn.Module):
    def __init__(self, hidden=4, head="head", body="body"):
        super().__init__()
        setattr(self, body, nn.Linear(3, hidden))
        setattr(self, head, nn.Linear(hidden, 1))
        self.names = (body, head)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def trained(folder, model):
    torch.manual_seed(0)
    data = torch.randn(16, 3), torch.randn(16, 1)
    config = treadle.Config(
        run_dir=str(folder),
        duration="3 epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(best="valid/loss"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    return treadle.train(model, nn.MSELoss(), data, valid=data, optimizer=partial(torch.optim.SGD, lr=0.05), config=config)


@pytest.fixture
def stored(tmp_path):
    """A model, and the path of a file with its weights."""
    model = Net()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return model, tmp_path / "weights.safetensors"


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
def test_the_best_checkpoint_goes_into_a_fresh_model(tmp_path, kind):
    model, fresh = Net(), Net()
    result = trained(tmp_path, model)
    assert result.best == result.last
    assert treadle.load_weights(kind(result.best), fresh) is fresh
    assert same(fresh, model)


def test_one_of_several_models_is_loaded_by_its_name(tmp_path):
    models = {"G": Net(), "D": Net()}
    config = treadle.Config(
        run_dir=str(tmp_path),
        duration="1 step",
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )

    def step(step, model, optimizer):
        for x in step:
            step.backward(model["G"](x).sum() + model["D"](x).sum())
        for one in optimizer.values():
            step.update(one)

    sgd = partial(torch.optim.SGD, lr=0.1)
    result = treadle.train(models, None, torch.randn(4, 3), optimizer={"G": sgd, "D": sgd}, step=step, config=config)
    assert same(treadle.load_weights(result.last, Net(), name="model-G"), models["G"])
    with pytest.raises(CheckpointError, match=r"no state named 'model_G'; did you mean 'model-G'"):
        treadle.load_weights(result.last, Net(), name="model_G")


def test_a_safetensors_file_is_a_path_too(stored):
    model, path = stored
    fresh = Net()
    treadle.load_weights(path, fresh)
    assert same(fresh, model)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    model, fresh = Net(), Net()
    save_file({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    treadle.load_weights(tmp_path / "w.safetensors", fresh)
    assert same(fresh, model)


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel], ids=["compile", "DataParallel"])
def test_weights_go_into_a_wrapped_model(stored, wrap):
    model, path = stored
    fresh = Net()
    treadle.load_weights(path, wrap(fresh))
    assert same(fresh, model)


def test_a_model_with_a_part_named_module_is_not_mistaken_for_a_wrapper(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 1)

        def forward(self, x):
            return self.module(x)

    model, fresh = Holder(), Holder()
    treadle.load_weights(trained(tmp_path, model).best, fresh)
    assert same(fresh, model)


def test_missing_unexpected_and_misshapen_keys_are_listed_with_the_nearest_names(stored):
    _, path = stored
    with pytest.raises(CheckpointError) as caught:
        treadle.load_weights(path, Net(hidden=5, head="heads"))
    text = str(caught.value)
    assert f"{path} does not fit Net" in text
    for line in (
        "body.weight: the checkpoint has the shape [4, 3], the model [5, 3]",
        "body.bias: the checkpoint has the shape [4], the model [5]",
        "heads.weight [1, 5]: missing in the checkpoint; did you mean 'head.weight'?",
        "heads.bias [1]: missing in the checkpoint; did you mean 'head.bias'?",
        "head.weight [1, 4]: not in the model; did you mean 'heads.weight'?",
        "head.bias [1]: not in the model; did you mean 'heads.bias'?",
    ):
        assert line in text.replace("\n  ", "\n").splitlines()


def test_a_model_that_does_not_fit_is_left_as_it_was(stored):
    _, path = stored
    model = Net(head="other")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        treadle.load_weights(path, model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_not_strict_loads_what_is_there_and_leaves_the_rest(stored):
    stored_model, path = stored
    model = Net(head="other")
    before = model.other.weight.clone()
    treadle.load_weights(path, model, strict=False)
    assert torch.equal(model.body.weight, stored_model.body.weight)
    assert torch.equal(model.other.weight, before)


def test_not_strict_still_refuses_other_shapes(stored):
    with pytest.raises(CheckpointError, match=r"body.weight: the checkpoint has the shape"):
        treadle.load_weights(stored[1], Net(hidden=5), strict=False)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.safetensors"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"there is no checkpoint at .*{name}"):
        treadle.load_weights(tmp_path / name, Net())


@pytest.mark.parametrize("content", ["half", "text", "empty"])
def test_a_damaged_file_is_named(stored, content):
    _, path = stored
    path.write_bytes({"half": path.read_bytes()[:-10], "text": b"no weights in here", "empty": b""}[content])
    with pytest.raises(CheckpointError, match=r"weights.safetensors"):
        treadle.load_weights(path, Net())


def test_a_damaged_checkpoint_is_not_loaded(tmp_path):
    result = trained(tmp_path, Net())
    file = result.best / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        treadle.load_weights(result.best, Net())


def test_tied_weights_stay_tied(tmp_path):
    class Tied(Net):
        def __init__(self):
            super().__init__(hidden=3)
            self.again = self.body

    model, fresh = Tied(), Tied()
    treadle.load_weights(trained(tmp_path, model).last, fresh)
    assert same(fresh, model) and fresh.again.weight is fresh.body.weight
