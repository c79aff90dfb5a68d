"""A small GPT on characters, where a step is real work: what is left of a library's cost.

    python benchmarks/small_gpt.py [--rounds 7] [--only 'treadle, everything'] [--sizes 2 22] [--save]

2 layers, width 128, 4 heads, context 128; each update is 2 micro-batches of 16, clipped at norm 1, with AdamW under a cosine. The text is the
standard library's `pydoc_data.topics`. The cost is the marginal one from 2 updates to 22.
"""

from functools import cache, partial
from pydoc_data.topics import topics

import torch
from harness import Benchmark
from peers import add_peers
from tasks import TREADLE, Task, by_hand
from torch import nn
from torch.nn import functional as F

import treadle

CONTEXT, MICRO, ACCUMULATE, LR = 128, 16, 2, 1e-3


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.mlp(self.between(x))


class GPT(nn.Module):
    """Characters, int64 (batch, CONTEXT) -> scores (batch, CONTEXT, characters)."""

    def __init__(self, characters: int, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.character, self.place = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, characters, bias=False))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.blocks(self.character(text) + self.place.weight))
        return scores


@cache
def windows() -> tuple[int, torch.Tensor]:
    """How many characters there are, and windows of the text, int64 (n, CONTEXT + 1), in a shuffled order."""
    text = "".join(topics.values())
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    numbers = torch.tensor([alphabet[character] for character in text]).unfold(0, CONTEXT + 1, CONTEXT)
    return len(alphabet), numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]


def loss_of(scores: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores.flatten(0, 1), text.flatten())


def task(updates: int) -> Task:
    characters, text = windows()
    held_out, text = text[:64], text[64 : 64 + updates * ACCUMULATE * MICRO]
    x, y = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    torch.manual_seed(0)
    return Task(
        GPT(characters), loss_of, list(zip(x.split(MICRO), y.split(MICRO), strict=True)), partial(torch.optim.AdamW, lr=LR),
        check=(held_out[:, :-1], held_out[:, 1:]), accumulate=ACCUMULATE, clip=1.0, cosine_from=LR, data=(x, y),
        config={
            "batch_size": ACCUMULATE * MICRO, "machine": treadle.MachineConfig(micro_batch=MICRO),
            "data": treadle.DataConfig(sampler="sequential", leaks="off"),
        },
    )  # fmt: skip


BENCH = Benchmark(__file__, task, sizes=(2, 22), small=(1,), unit="ms an update", scale=1e-3)
BENCH.add("by hand", by_hand)
for name, way in TREADLE.items():
    BENCH.add(name, way)
add_peers(BENCH)

if __name__ == "__main__":
    BENCH.main()
