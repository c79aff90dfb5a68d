"""A loop of its own: my_loop.py KIND; "sound" tracks everything, each other kind forgets something."""

import sys

import numpy as np
import torch
from torch import nn

import treadle


def main(kind):
    config = treadle.Config(run_dir="results/loop", duration="20 steps", batch_size=8, seed=3)
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    history, ema = [], {}
    noise = np.random.default_rng(5)
    with treadle.Run(config) as run:
        model, opt = run.prepare(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 2)), torch.optim.AdamW)
        scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda n: 0.8**n)
        run.track(model=model, optimizer=opt)
        if kind == "sound":
            run.track(scheduler=scheduler, noise=noise)
        for step in run.steps((x, y)):
            for a, b in step:
                loss = nn.functional.cross_entropy(model(a), b)
                if kind in ("sound", "generator"):
                    loss = loss * (1 + noise.normal() / 10)
                if kind == "history":
                    loss = loss * (1 + len(history) / 10)
                if kind == "ema":
                    loss = loss + sum((p * ema[name]).sum() for name, p in model.named_parameters() if name in ema)
                step.backward(loss)
            step.update(opt)
            if kind in ("sound", "scheduler"):
                scheduler.step()
            if kind == "history":
                history.append(step.number)
            if kind == "ema":
                for name, p in model.named_parameters():
                    ema[name] = ema.get(name, torch.zeros_like(p)) * 0.9 + p.detach() * 0.01


if __name__ == "__main__":
    print("a program may print, and read what is not there:", repr(sys.stdin.read()))
    main(sys.argv[1])
