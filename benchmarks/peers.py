"""The peers, each as its documentation has it: with everything optional off, and with its defaults (a progress bar, the loss logged).

None of them is needed: an entrant whose package is not installed is left out. ``pip install -r benchmarks/peers.txt``
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from harness import Benchmark
from tasks import Task
from torch import nn
from torch.utils.data import DataLoader

EVERY = 50
"""Steps between two logged losses, as Treadle's default has it, where the peer's has none."""


class Ready(DataLoader[Any]):
    """Batches as they are, for those who insist on a DataLoader: to iterate over it costs what iterating over the list costs."""

    def __init__(self, batches: Any) -> None:
        super().__init__(batches, batch_size=1, collate_fn=itemgetter(0))
        self.ready = batches

    def __iter__(self) -> Any:
        return iter(self.ready)


def loader(task: Task) -> Any:
    return task.batches if isinstance(task.batches, DataLoader) else Ready(task.batches)


def tools(task: Task) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer, and the cosine or what leaves the rate as it is."""
    optimizer = task.optimizer(task.model.parameters())
    if task.cosine_from:
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.updates)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def by_lightning(task: Task, everything: bool) -> Callable[[], Any]:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.model

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = task.loss(self.net(batch[0]), batch[1])
            if everything:
                self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer, schedule = tools(task)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}} if task.cosine_from else optimizer

    # Its own switch for measuring its overhead; else a TensorBoard logger, a progress bar, a summary and a checkpoint at the end.
    usual = {"default_root_dir": "."} if everything else {"barebones": True}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=1, accumulate_grad_batches=task.accumulate, gradient_clip_val=task.clip, **usual)
    module = Module()

    def fit() -> Any:
        trainer.fit(module, loader(task))
        return task.final_loss

    return fit


def by_ignite(task: Task, everything: bool) -> Callable[[], Any]:
    from ignite.engine import Engine, Events

    optimizer, schedule = tools(task)

    def update(engine: Any, batch: Any) -> Any:
        loss = task.loss(task.model(batch[0]), batch[1])
        (loss / task.accumulate if task.accumulate > 1 else loss).backward()
        if engine.state.iteration % task.accumulate == 0:
            if task.clip:
                nn.utils.clip_grad_norm_(task.model.parameters(), task.clip)
            optimizer.step()
            if task.cosine_from:
                schedule.step()
            optimizer.zero_grad()
        return loss.item() if everything else None

    engine = Engine(update)
    if everything:
        from ignite.handlers import ProgressBar
        from ignite.handlers.tensorboard_logger import TensorboardLogger
        from ignite.metrics import RunningAverage

        RunningAverage(output_transform=lambda loss: loss).attach(engine, "loss")
        ProgressBar().attach(engine, ["loss"])
        logger = TensorboardLogger(log_dir="tb")
        due = Events.ITERATION_COMPLETED(every=EVERY)
        logger.attach_output_handler(engine, event_name=due, tag="training", output_transform=lambda loss: {"loss": loss})

    def fit() -> Any:
        engine.run(task.batches, max_epochs=1)
        return task.final_loss

    return fit


def by_accelerate(task: Task, everything: bool) -> Callable[[], Any]:
    from accelerate import Accelerator
    from tqdm import tqdm

    options = {"log_with": "tensorboard", "project_dir": "."} if everything else {}
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=task.accumulate, **options)
    if everything:
        accelerator.init_trackers("bench")
    optimizer, schedule = tools(task)
    # With nothing optional the loop is over the user's own batches; its documentation also prepares the loader.
    batches = loader(task) if everything or task.accumulate > 1 else None
    model, optimizer, schedule, *prepared = accelerator.prepare(task.model, optimizer, schedule, *([batches] if batches is not None else []))

    def fit() -> Any:
        for number, (x, y) in enumerate(tqdm(prepared[0] if prepared else task.batches, disable=not everything)):
            with accelerator.accumulate(model):
                loss = task.loss(model(x), y)
                accelerator.backward(loss)
                if task.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), task.clip)
                optimizer.step()
                if task.cosine_from:
                    schedule.step()
                optimizer.zero_grad()
            if everything and number % EVERY == 0:
                accelerator.log({"train_loss": loss.item()}, step=number)
        accelerator.end_training()
        return task.final_loss

    return fit


def by_transformers(task: Task, everything: bool) -> Callable[[], Any]:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.model

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            output = self.net(x)
            return {"loss": task.loss(output, y), "logits": output}

    class Own(Trainer):
        def get_train_dataloader(self) -> Any:
            return Ready([{"x": x, "y": y} for x, y in task.batches])

    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "logging_nan_inf_filter": False}
    usual = {"report_to": ["tensorboard"], "disable_tqdm": False, "logging_steps": EVERY}
    arguments = TrainingArguments(
        "hf", num_train_epochs=1, use_cpu=True, save_strategy="no", remove_unused_columns=False, max_grad_norm=task.clip or 0,
        gradient_accumulation_steps=task.accumulate, **(usual if everything else quiet),
    )  # fmt: skip
    trainer = Own(WithLoss(), arguments, train_dataset=list(range(len(task.batches))), optimizers=tools(task))  # type: ignore[arg-type]
    if not everything:
        trainer.remove_callback(PrinterCallback)

    def fit() -> Any:
        trainer.train()
        return task.final_loss

    return fit


WAYS = {
    "lightning": (by_lightning, "pytorch_lightning"),
    "ignite": (by_ignite, "ignite"),
    "accelerate": (by_accelerate, "accelerate"),
    "transformers": (by_transformers, "transformers"),
}


def add_peers(bench: Benchmark) -> None:
    """Each of them with nothing logged, and with what it usually shows and logs; one that is not installed is left out."""
    for name, (way, package) in WAYS.items():
        for mode in ("nothing logged", "everything"):
            bench.add(f"{name}, {mode}", partial(way, everything=mode == "everything"), needs=package)
