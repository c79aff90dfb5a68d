"""A transformer that writes, character by character, learnt from Python's manual: texts of all lengths, a loss over tokens.

    treadle train recipes/char_lm.py
    treadle train recipes/char_lm.py context=256 width=128 layers=4      # larger

The texts are the paragraphs of `pydoc_data.topics`, which comes with Python. Texts of similar length make a batch, what is filled
in counts for nothing, and each character counts the same, in whichever batch it is. After each epoch it writes some lines of its own.
Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.
"""

from dataclasses import dataclass, field
from functools import partial
from pydoc_data.topics import topics
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import treadle

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class WriterConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/char-lm/{n}"
    duration: str = "10 epochs"
    batch_size: int = 16
    seed: int = 42
    clip: float | None = 1.0
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/loss"))
    context: Annotated[int, Gt(0)] = 64
    """Most characters that are seen at once; longer paragraphs are cut."""
    width: Annotated[int, Gt(0)] = 64
    """Numbers that stand for a character; a multiple of `heads`."""
    heads: Annotated[int, Gt(0)] = 4
    """Attention heads in each layer."""
    layers: Annotated[int, Gt(0)] = 2
    """How many."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Highest learning rate, after a warm-up; it falls along half a cosine."""


# --- 2. The model ---


class Block(nn.Module):
    """One layer: (N, length, width) -> (N, length, width). Each character looks at those before it, then at itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.look, self.looked = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.look(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.looked(seen.transpose(1, 2).flatten(2))
        thought: torch.Tensor = self.think(self.norms[1](x))
        return x + thought


class Writer(nn.Module):
    """Characters, int64 (N, length) -> scores of the next ones (N, length, characters)."""

    def __init__(self, characters: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.character, self.place = nn.Embedding(characters, width), nn.Embedding(context, width)
        nn.init.normal_(self.place.weight, std=0.1)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.scores = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, characters))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        scores: torch.Tensor = self.scores(self.blocks(self.character(text) + self.place(places)))
        return scores


# --- 3. The data ---

END = "\0"
"""Stands at both ends of a paragraph."""
PARAGRAPHS = [END + paragraph + END for topic in topics.values() for paragraph in topic.split("\n\n")]
ALPHABET = sorted(set("".join(PARAGRAPHS)))


def pieces(context: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Characters, and at each the one that follows, int64, up to `context` of them. No two pieces are alike: the manual repeats itself."""
    cut = (text[start : start + context + 1] for text in PARAGRAPHS for start in range(0, len(text) - 1, context))
    number = {character: place for place, character in enumerate(ALPHABET)}
    texts = [torch.tensor([number[character] for character in piece]) for piece in dict.fromkeys(cut)]
    return [(text[:-1], text[1:]) for text in texts]


# --- 4. The objective ---


def next_character(model: nn.Module, batch: Any) -> treadle.Outcome:
    """Mean over the characters that are there; `train/bits` is in bits a character."""
    text, following = batch
    loss = cross_entropy(model(text.values).transpose(1, 2), following)  # which leaves out -100, that is, what `pad` filled in
    return treadle.Outcome(loss, count=text.lengths.sum(), logs={"bits": loss / torch.log(torch.tensor(2.0))})


def write(model: nn.Module, context: int, device: torch.device) -> str:
    """As much as it can see at once, drawn a character at a time, from the same random numbers each time."""
    chance, text = torch.Generator().manual_seed(0), torch.full((1, 1), ALPHABET.index(END))
    with torch.no_grad():
        while text.shape[1] < context:
            odds = model(text.to(device))[0, -1].softmax(0).cpu()
            text = torch.cat([text, torch.multinomial(odds, 1, generator=chance)[None]], dim=1)
    return "".join(ALPHABET[place] for place in text[0]).replace(END, "\n\n").strip()


# --- 5. The experiment ---


def experiment(config: WriterConfig) -> treadle.Trainer:
    found = pieces(config.context)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    train, valid = ([found[place] for place in part] for part in (order[len(found) // 10 :], order[: len(found) // 10]))
    trainer = treadle.Trainer(
        partial(Writer, len(ALPHABET), config.context, config.width, config.heads, config.layers),
        next_character,
        treadle.data.bucket(treadle.Samples(train, collate=treadle.data.pad()), [len(text) for text, _ in train]),
        valid=treadle.Samples(valid, collate=treadle.data.pad()),
        optimizer=partial(torch.optim.AdamW, lr=config.lr),
        schedules={"lr": treadle.schedules.cosine(config.lr, warmup="50 steps")},
        config=config,
    )

    @trainer.on("epoch_finished")
    def show(run: treadle.Run) -> None:
        run.say(write(trainer.model, config.context, run.device))

    return trainer
