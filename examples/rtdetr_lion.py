"""Train RT-DETR with Lion, in the real Ultralytics, without an edited line of it.

    pip install thalweg ultralytics
    python examples/rtdetr_lion.py          # small images, drawn here; minutes on a CPU
    python examples/rtdetr_lion.py --model rtdetr-l.pt --data coco8.yaml --imgsz 640 --epochs 72 --device 0
    python examples/rtdetr_lion.py --optimizer AdamW          # what changes is one word

Everything that is not passed is Lion's own: lr0=1e-4, betas (0.9, 0.99), no decay.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import cv2
import numpy as np
from ultralytics import RTDETR

from thalweg.integrations.ultralytics import trainer_for


def draw_images(folder: Path, count: int = 16, size: int = 128) -> Path:
    """Draw red and blue rectangles on noise, with YOLO's labels; return their data.yaml."""
    rng, colours = random.Random(0), ((40, 40, 255), (255, 80, 40))
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 60, (size, size, 3), dtype=np.uint8)
        kind, w, h = rng.randrange(2), rng.randrange(24, 48), rng.randrange(24, 48)
        x, y = rng.randrange(size - w), rng.randrange(size - h)
        cv2.rectangle(picture, (x, y), (x + w, y + h), colours[kind], -1)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        box = " ".join(f"{v / size:.5f}" for v in (x + w / 2, y + h / 2, w, h))
        (folder / "labels" / f"{i}.txt").write_text(f"{kind} {box}\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [red, blue]\n")
    return data


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rtdetr-l.yaml", help="a .pt begins with its weights")
    parser.add_argument("--data", default="", help="a data.yaml; by default drawn images")
    parser.add_argument("--optimizer", default="Lion", help="any name of `thalweg list`")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--project", help="a folder; by default Ultralytics' own, runs/detect")
    given = parser.parse_args()

    data = given.data or draw_images(Path(tempfile.mkdtemp()))
    model = RTDETR(given.model)
    model.train(
        trainer=trainer_for(model),
        optimizer=given.optimizer,
        data=str(data),
        epochs=given.epochs,
        batch=given.batch,
        imgsz=given.imgsz,
        device=given.device,
        project=given.project,
        cos_lr=True,
        close_mosaic=1,
        nbs=16,
        amp=False,  # RT-DETR may become NaN in float16
        deterministic=False,  # its grid_sample has no deterministic backward on CUDA
        plots=False,
    )
    print(model.trainer.optimizer.summary())


if __name__ == "__main__":
    main()
