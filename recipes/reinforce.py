"""REINFORCE on gymnasium's CartPole: a loop of one's own, without data.

    python recipes/reinforce.py
    python recipes/reinforce.py duration="50 steps" batch_size=8

A step plays `batch_size` games side by side, then makes the actions likelier that were followed by more reward than is usual at
that moment. The reward of a game is for how many moments the pole stood: 500 is the most. Williams, Simple Statistical
Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.

The games have random generators of their own. Each step seeds them by a number that is drawn from the run's generator, which is
in every checkpoint: so a run that goes on plays the games that it would have played.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Gt, Interval
from torch import nn
from torch.nn.functional import cross_entropy

import treadle

try:
    import gymnasium
except ImportError:
    raise SystemExit("gymnasium is not installed, and the game is in there: pip install gymnasium") from None

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class PoleConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this program's own."""

    run_dir: str = "results/reinforce/{n}"
    duration: str = "300 steps"
    batch_size: int = 16
    """Games in a step."""
    seed: int = 42
    log: treadle.LogConfig = field(default_factory=lambda: treadle.LogConfig(every="10 steps"))
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(every="20 steps"))
    discount: Annotated[float, Interval(gt=0, le=1)] = 0.99
    """What a reward is worth one moment earlier."""
    lr: Annotated[float, Gt(0)] = 1e-2
    """Learning rate."""


# --- 2. The policy ---


def policy() -> nn.Sequential:
    """What is seen of the cart and the pole (..., 4) -> scores of a push to the left and to the right (..., 2)."""
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))


# --- 3. The games ---


class Played(NamedTuple):
    """Games side by side; first dimension moments, second dimension games."""

    seen: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    counts: torch.Tensor
    """Whether the game was still on."""


@torch.no_grad()
def play(games: Any, model: nn.Module, device: torch.device) -> Played:
    """Play every game to its end."""
    seen, _ = games.reset(seed=int(torch.randint(2**31, ())))
    on = torch.ones(games.num_envs, dtype=torch.bool)
    moments = []
    while on.any():
        now = torch.from_numpy(seen)
        actions = torch.multinomial(model(now.to(device)).softmax(1).cpu(), 1)[:, 0]
        seen, rewards, fallen, timed_out, _ = games.step(actions.numpy())
        moments.append((now, actions, torch.from_numpy(rewards).float() * on, on))
        on = on & ~torch.from_numpy(fallen | timed_out)  # a game that is over begins again by itself; that one is left out
    return Played(*(torch.stack(column).to(device) for column in zip(*moments, strict=True)))


def advantages(played: Played, discount: float) -> torch.Tensor:
    """What comes after each moment, over what usually does at that moment: (moments, games)."""
    returns = torch.zeros_like(played.rewards)
    ahead = returns[0]
    for moment in range(len(returns) - 1, -1, -1):
        ahead = played.rewards[moment] + discount * ahead
        returns[moment] = ahead
    above = returns - returns.mean(1, keepdim=True)
    return above / above[played.counts].std()


# --- 4. The loop ---


def main(config: PoleConfig) -> treadle.Result:
    with treadle.Run(config) as run:
        model, optimizer = run.prepare(policy(), partial(torch.optim.Adam, lr=config.lr))
        run.track(policy=model, optimizer=optimizer)
        games = gymnasium.make_vec("CartPole-v1", config.batch_size, vectorization_mode="sync")
        for step in run.steps(total=config.duration):
            played = play(games, model, run.device)
            above = advantages(played, config.discount)[played.counts]
            surprise = cross_entropy(model(played.seen[played.counts]), played.actions[played.counts], reduction="none")
            step.backward((surprise * above).mean(), count=len(above))
            step.update(optimizer)
            run.log({"train/reward": played.rewards.sum(0).mean()})
    return run.result


if __name__ == "__main__":
    treadle.main(main)
