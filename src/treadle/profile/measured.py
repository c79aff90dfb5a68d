"""What was measured: facts about some steps of a program, as they are written to `profile.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from treadle.profile.memory import Held


@dataclass
class Module:
    """What a module takes in one step.

    Args:
        name: as its author would call it.
        type: its class.
        parameters: numbers in it, those of the modules in it too.
        forward_s: seconds of its forward pass.
        backward_s: seconds of its backward pass.
        own_forward_s: the same, without the modules in it.
        own_backward_s: the same, without the modules in it.
        saved_bytes: what it saves for backward, with the modules in it.
        own_saved_bytes: the same, without them.
        container: whether it only calls the modules in it, as an nn.Sequential does.
    """

    name: str
    type: str
    parameters: int
    forward_s: float
    backward_s: float
    own_forward_s: float
    own_backward_s: float
    saved_bytes: int
    own_saved_bytes: int
    container: bool = False

    @property
    def own_s(self) -> float:
        """Seconds without the modules in it."""
        return self.own_forward_s + self.own_backward_s


@dataclass
class Data:
    """How data comes.

    Args:
        kind: tensors, indexed, streamed, batched, or none.
        workers: loading processes.
        load_s: seconds in which one process makes a batch; None where it was not measured.
        of_loader: whether the number of workers is that of a DataLoader of the user's.
    """

    kind: str = "none"
    workers: int = 0
    load_s: float | None = None
    of_loader: bool = False


@dataclass
class Measured:
    """Some steps of a run.

    Args:
        steps: how many were timed.
        warmup: steps before them.
        inside: steps after them, for modules and memory.
        samples: samples in all timed steps.
        wall_s: seconds that the timed steps took.
        phases: of these, the seconds of each phase; they add up to `wall_s`.
        host: the same by the clock of the host, which on a GPU is ahead of the device: what it waits for here may cost nothing.
        step_s: seconds of each timed step.
        timeline: phase, start and end of each stretch, in seconds.
        rows: rows that were written to the log.
        busy_s: seconds a step in which the GPU works; None where there is none.
        cost_s: seconds a step that the measuring itself takes, about.
        device: such as "cpu"; `gpu` is the name of a GPU.
        threads: torch's, in the training process.
        cores: of the machine that this process may use.
        settings: values of the config that the verdict speaks of.
        data: how data comes.
        modules: what each takes, in the order of the model; empty where they cannot be told apart.
        memory: bytes of each kind of tensor.
        peaks: the most bytes in use during each phase: of the GPU, or of the process where there is none.
        largest: the largest tensors.
    """

    steps: int
    warmup: int
    inside: int
    samples: int
    wall_s: float
    phases: dict[str, float]
    host: dict[str, float]
    step_s: list[float]
    timeline: list[tuple[str, float, float]]
    rows: int
    busy_s: float | None
    cost_s: float
    device: str
    gpu: str | None
    threads: int
    cores: int
    settings: dict[str, Any]
    data: Data
    modules: list[Module] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    largest: list[Held] = field(default_factory=list)

    @property
    def mean_s(self) -> float:
        """Seconds a step."""
        return self.wall_s / self.steps

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.wall_s

    def share(self, *phases: str) -> float:
        """What part of the time some phases take."""
        return sum(self.phases.get(phase, 0.0) for phase in phases) / self.wall_s

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Read it from a file."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["data"] = Data(**fields["data"])
        fields["modules"] = [Module(**one) for one in fields["modules"]]
        fields["largest"] = [Held(**one) for one in fields["largest"]]
        fields["timeline"] = [tuple(one) for one in fields["timeline"]]
        return cls(**fields)
