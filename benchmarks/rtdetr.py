"""RT-DETR-l in the real Ultralytics: images per second and optimizer state, with Lion, AdamW and Adafactor.

    python -m benchmarks.rtdetr --imgsz 640 --batch 8 --rounds 20 --device 0

One training; its batches take turns with the optimizers, so that slow drifts of the machine meet all alike.
What is timed is the whole batch: data, forward, backward, clipping, step, zero_grad, Ultralytics' EMA. The
images are noise with one box each. Each optimizer has its own state and steps the same weights, by next to
nothing: this measures time alone. The first turn of each is not counted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

import thalweg
from thalweg import groups
from thalweg.integrations.ultralytics import trainer_for

from . import results

LR = 1e-7  # so that the weights stay as they are: this measures time alone
CONTENDERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "thalweg Lion": partial(thalweg.Lion, lr=LR),
    "thalweg AdamW": partial(thalweg.AdamW, lr=LR),
    "torch AdamW": partial(torch.optim.AdamW, lr=LR),
    "torch AdamW fused": partial(torch.optim.AdamW, lr=LR, fused=True),
    "thalweg Adafactor": partial(thalweg.Adafactor, lr=LR),
    "torch Adafactor": partial(torch.optim.Adafactor, lr=LR),
}
BASE = "thalweg AdamW"


class Enough(Exception):  # noqa: N818
    """All turns are taken: there is nothing to validate or save."""


class Turns:
    """Callbacks that give each batch another optimizer and time it."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.batch, self.began, self.stepped = rounds, 0, 0.0, 0.0
        self.optimizers: dict[str, Any] = {}
        self.batches: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        self.steps: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    def start(self, trainer: Any) -> None:
        if not self.optimizers:
            parts = groups.yolo(trainer.model, 0.0, frozen=True)
            for name, make in CONTENDERS.items():
                self.optimizers[name] = optimizer = make([dict(g) for g in parts])
                optimizer.register_step_pre_hook(lambda *_: self._now("stepped"))
                optimizer.register_step_post_hook(lambda *_: self._after())
        self.name = list(CONTENDERS)[self.batch % len(CONTENDERS)]
        trainer.optimizer = self.optimizers[self.name]
        self._now("began")

    def _now(self, what: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        setattr(self, what, time.perf_counter())

    def _after(self) -> None:
        began = self.stepped
        self._now("stepped")
        self.steps[self.name].append(self.stepped - began)

    def end(self, _: Any) -> None:
        began = self.began
        self._now("began")
        self.batches[self.name].append(self.began - began)
        self.batch += 1
        if self.batch >= (self.rounds + 1) * len(CONTENDERS):
            raise Enough

    def bytes_of(self, name: str) -> int:
        entries = (x for s in self.optimizers[name].state.values() for x in s.values())
        return sum(x.numel() * x.element_size() for x in entries if isinstance(x, torch.Tensor))


def noise(folder: Path, count: int, size: int) -> Path:
    """Images of noise with one box each, and their data.yaml."""
    import cv2
    import numpy as np

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 255, (size, size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        (folder / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [noise]\n")
    return data


def main(
    imgsz: int = 96,
    batch: int = 2,
    rounds: Annotated[int, typer.Option(min=2)] = 10,
    threads: int = 2,
    device: str = "cpu",
    json: Annotated[Path, typer.Option(help="folder of the results")] = results.FOLDER,
) -> None:
    """Measure."""
    from ultralytics import RTDETR

    torch.set_num_threads(threads)
    folder = Path(tempfile.mkdtemp())
    count = batch * len(CONTENDERS) * 2
    model, turns = RTDETR("rtdetr-l.yaml"), Turns(rounds)
    model.add_callback("on_train_batch_start", turns.start)
    model.add_callback("on_train_batch_end", turns.end)
    with suppress(Enough):
        model.train(
            trainer=trainer_for(model), optimizer="AdamW", data=str(noise(folder / "data", count, imgsz)),
            epochs=10 * rounds, batch=batch, nbs=batch, imgsz=imgsz, device=device, workers=0,
            warmup_epochs=0.0, lr0=0.0, amp=False, plots=False, val=False, pretrained=False,
            project=str(folder), mosaic=0.0, save=False, deterministic=False,
        )  # fmt: skip
    base = turns.batches[BASE][1:]
    figures: dict[str, Any] = {"imgsz": imgsz, "batch": batch, "contenders": {}}
    for name in CONTENDERS:
        seconds = turns.batches[name][1:]
        figures["contenders"][name] = {
            "images_per_second": float(f"{batch / median(seconds):.4g}"),
            "paired_ratio_of_speed": float(f"{1.0 / results.paired(seconds, base):.4g}"),
            "step_ms": float(f"{1000 * median(turns.steps[name][1:]):.4g}"),
            "state_bytes": turns.bytes_of(name),
            "batch_ms": [float(f"{1000 * x:.5g}") for x in seconds],
        }
    kind = "cpu" if device == "cpu" else "cuda"
    path = results.save(json, "rtdetr", f"{imgsz}px", threads, kind, figures)
    for name, f in figures["contenders"].items():
        typer.echo(
            f"{name:20} {f['images_per_second']:8.3f} images/s {f['paired_ratio_of_speed']:7.3f} of {BASE}'s "
            f"speed; step {f['step_ms']:8.1f} ms; state {f['state_bytes']:,} bytes"
        )
    typer.echo(f"kept in {path}")


if __name__ == "__main__":
    typer.run(main)
