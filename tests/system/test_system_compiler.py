"""torch.compile under a run: no graph break of the library's own, and nothing lost where it fails."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.step.objective import as_objective, as_outcome
from treadle.step.whole import WholeStep
from treadle.system.compiler import NotOneGraph, OneGraph, compiled
from treadle.system.precision import Precision
from treadle.system.wrap import fused_where_it_can_be

CPU = torch.device("cpu")
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = build()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {"loss": nn.functional.cross_entropy(self.inside(x), y)}


def outcome(model: nn.Module, batch: Any) -> treadle.Outcome:
    scores = model(batch["x"])
    loss = nn.functional.cross_entropy(scores, batch["y"])
    return treadle.Outcome(loss, scores, batch["y"], count=(batch["y"] >= 0).sum(), logs={"largest": scores.max()})


OBJECTIVES: dict[str, tuple[Any, Callable[[], nn.Module], Any]] = {
    "supervised": (nn.CrossEntropyLoss(label_smoothing=0.1), build, (X, Y)),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), build, (X, Y)),
    "fields": (treadle.supervised(nn.functional.cross_entropy, input="x", target="y"), build, {"x": X, "y": Y}),
    "regression": (nn.MSELoss(), build, (X, X[:, :3])),
    "outcome": (outcome, build, {"x": X, "y": Y}),
    "own loss": (None, OwnLoss, (X, Y)),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_what_the_library_adds_breaks_no_graph(name: str, precision: str) -> None:
    given, make, batch = OBJECTIVES[name]
    objective, model, format = as_objective(given), make(), Precision(precision, CPU)

    def forward(batch: Any) -> Any:
        with format.autocast():
            return as_outcome(objective(model, batch), batch)

    found, expected = torch.compile(forward, fullgraph=True, backend="eager")(batch), forward(batch)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.logs.keys() == expected.logs.keys()
    if expected.count is not None:
        assert found.count == expected.count


def test_a_model_whose_graph_cannot_be_compiled_runs_as_it_is_and_that_is_said_once() -> None:
    said: list[str] = []

    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no C++ compiler\nin any of these places")

    torch._dynamo.register_backend(broken, name="broken_of_a_test")
    model = build()
    wrapped = compiled({"a": model, "b": nn.Linear(4, 2)}, said.append, "broken_of_a_test")["a"]
    assert torch.equal(wrapped(X), model(X))
    assert torch.equal(wrapped(X[:3]), model(X[:3]))
    assert said == [
        "warning: machine.compile: the model runs as it is, because torch.compile failed: OSError: no C++ compiler in any of these places"
    ]


def test_a_model_that_is_compiled_already_is_left_to_its_owner() -> None:
    model = torch.compile(build(), backend="eager")
    assert compiled(model, pytest.fail) is model


def test_each_shape_has_a_graph_of_its_own_whatever_came_before() -> None:
    graphs: list[tuple[int, ...]] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(next(tuple(item.shape) for item in inputs if item.ndim == 2 and item.shape[1] == 4 and not isinstance(item, nn.Parameter)))
        return graph.forward

    torch._dynamo.register_backend(counting, name="counting_of_a_test")
    wrapped = compiled(build(), pytest.fail, "counting_of_a_test")
    for size in (8, 5, 8, 3, 5, 8):
        wrapped(X[:size])
    assert graphs == [(8, 4), (5, 4), (3, 4)]


def test_one_graph_is_made_of_gradients_too_and_calls_nothing_as_it_is() -> None:
    model = build()
    calls: list[bool] = []

    def gradient(batch: torch.Tensor) -> torch.Tensor:
        calls.append(torch.compiler.is_compiling())
        return torch.autograd.grad(model(batch).square().mean(), list(model.parameters()))[0]

    graph = OneGraph(gradient, "eager")
    for size in (8, 5, 8):
        torch.testing.assert_close(graph(X[:size]), gradient(X[:size]))
    calls.clear()
    with torch._dynamo.config.patch(recompile_limit=2), pytest.raises(NotOneGraph, match="many shapes"):
        graph(X[:3])
    assert False not in calls


def test_one_graph_is_of_its_shapes_alone_also_where_it_is_a_later_one() -> None:
    model, shapes = build(), []

    def counting(graph: Any, inputs: Any) -> Any:
        assert all(isinstance(item, torch.Tensor) for item in inputs)  # a size that is an input would be a graph for any size
        shapes.append(next(tuple(item.shape) for item in inputs if not isinstance(item, nn.Parameter)))
        return graph.forward

    graph = OneGraph(lambda batch: torch.autograd.grad(model(batch).square().mean(), list(model.parameters()))[0], counting)
    for size in (8, 5, 8, 3, 5):
        graph(X[:size])
    assert shapes == [(8, 4), (5, 4), (3, 4)]


class Halves(nn.Module):
    """Two weights, each with a batch of its own; a root has no gradient at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (self.first * batch[0]).sqrt().sum() + (self.last * batch[1]).sqrt().sum()


@pytest.mark.parametrize(
    ("first", "last", "is_found"),
    [(1.0, 1.0, False), (float("nan"), 1.0, True), (0.0, 1.0, True), (1.0, 0.0, True)],
    ids=["nothing", "loss", "first gradient", "last gradient"],
)
def test_whatever_is_not_finite_keeps_a_graph_from_moving_anything(first: float, last: float, is_found: bool) -> None:
    model = Halves()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step = WholeStep(model, lambda model, batch: model(batch), optimizer, Precision("fp32", CPU), None, False)
    graph = OneGraph(step, "eager")
    step.update.begin()
    assert graph((torch.tensor([1.0, first, 1.0]), torch.tensor([last, 1.0]))).found.item() == is_found
    state = [value for held in optimizer.state.values() for value in (held["step"], held["exp_avg"], held["exp_avg_sq"])]
    assert all(bool((p == 1).all()) != (not is_found) for p in model.parameters())
    assert all(bool((value == 0).all()) == is_found for value in state)


def test_what_changes_between_two_steps_of_a_graph_is_taken_up() -> None:
    models = [build(), build()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    objective = as_objective(nn.CrossEntropyLoss())
    steps = [WholeStep(model, objective, owner, Precision("fp32", CPU), None, True) for model, owner in zip(models, optimizers, strict=True)]
    makes = [steps[0], OneGraph(steps[1], "eager")]

    def replace(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        owner = next(module for module in model.modules() if isinstance(module, nn.Linear))
        new = nn.Parameter(owner.weight.detach() * 2)
        held = optimizer.param_groups[0]["params"]
        held[next(at for at, p in enumerate(held) if p is owner.weight)] = new
        owner.weight = new

    changes: list[Callable[[nn.Module, torch.optim.Optimizer], object]] = [
        lambda model, optimizer: None,
        lambda model, optimizer: optimizer.param_groups[0].update(lr=0.3),
        lambda model, optimizer: optimizer.param_groups[0].update(weight_decay=0.5),
        lambda model, optimizer: optimizer.load_state_dict(optimizer.state_dict()),
        lambda model, optimizer: next(model.parameters()).requires_grad_(False),
        lambda model, optimizer: optimizer.state.clear(),
        lambda model, optimizer: model.eval(),
        replace,
    ]
    for change in changes:
        for model, optimizer, step, make in zip(models, optimizers, steps, makes, strict=True):
            before = [p.clone() for p in model.parameters()]
            change(model, optimizer)
            step.update.begin()
            make((X, Y))
            assert [torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True)] == [not p.requires_grad for p in model.parameters()]
        for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_function_that_asks_for_a_number_is_no_graph() -> None:
    with pytest.raises(NotOneGraph):
        OneGraph(lambda batch: batch * 2 if batch.sum().item() > 0 else batch, "eager")(X)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", [partial(torch.optim.AdamW, lr=0.01), partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own compiler
@pytest.mark.slow
def test_the_compiled_step_is_the_step(optimizer: Callable[..., torch.optim.Optimizer], clip: float | None) -> None:
    models = [build(), build()]
    optimizers = [optimizer(model.parameters()) for model in models]
    steps = [
        WholeStep(model, as_objective(nn.CrossEntropyLoss()), owner, Precision("fp32", CPU), clip, True)
        for model, owner in zip(models, optimizers, strict=True)
    ]
    makes = [steps[0], OneGraph(steps[1])]
    for turn in range(6):
        results = []
        for step, make, owner in zip(steps, makes, optimizers, strict=True):
            owner.param_groups[0]["lr"] = 0.01 / (turn + 1)
            step.update.begin()
            results.append(make((X * float("nan") if turn == 3 else X, Y)))
        assert results[0].found.item() == results[1].found.item() == (turn == 3)
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# --- kernels of the machine ---


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("factory", "device", "fused"),
    [
        (torch.optim.SGD, CUDA, True),
        (partial(torch.optim.AdamW, lr=0.1), CUDA, True),
        (partial(torch.optim.AdamW, lr=0.1), CPU, None),
        (partial(torch.optim.Adam, foreach=True), CUDA, None),
        (partial(torch.optim.Adam, fused=False), CUDA, False),
        (partial(torch.optim.Adam, capturable=True), CUDA, None),
        (torch.optim.RMSprop, CUDA, None),
        (lambda params: torch.optim.SGD(params), CUDA, None),
    ],
)
def test_an_optimizer_is_fused_on_cuda_unless_it_says_otherwise(factory: Any, device: torch.device, fused: bool | None) -> None:
    found = fused_where_it_can_be(factory, device, build().parameters())
    assert (found.keywords.get("fused") if isinstance(found, partial) else None) is fused
    assert fused or found is factory


def test_a_complex_parameter_has_no_fused_kernel() -> None:
    assert fused_where_it_can_be(torch.optim.SGD, CUDA, [nn.Parameter(torch.zeros(2, dtype=torch.complex64))]) is torch.optim.SGD


def test_tf32_is_a_setting_of_the_run_that_is_put_back() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with Precision("tf32", CUDA).products(), Precision("tf32", CUDA).autocast():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
