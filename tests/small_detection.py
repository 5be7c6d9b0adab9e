"""Detection in a few steps: images that are made on the spot, and the real Ultralytics to train on them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

SMALL: dict[str, Any] = {
    "device": "cpu",
    "workers": 0,
    "imgsz": 96,  # at 64 YOLO finds too few places for these boxes at first
    "plots": False,
    "amp": False,
    "val": False,
    "pretrained": False,
    "exist_ok": True,
    "deterministic": False,  # RT-DETR's grid_sample has no deterministic backward
    "verbose": False,
}
"""What every training here has."""
PLAIN: dict[str, Any] = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "erasing"), 0.0
)
"""The images as they are, so that losses of different steps compare."""


def images(
    folder: Path, count: int = 8, size: int = 96, seed: int = 0, *, labels: str = "boxes"
) -> Path:
    """Images of bright rectangles in two colours on noise, with YOLO's labels; returns data.yaml.

    Labels may be "corners", all four, for segments and rotated boxes, or "keypoints", boxes and these.
    """
    import cv2

    draw, noise = random.Random(seed), np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture = noise.integers(0, 60, (size, size, 3), dtype=np.uint8)
        lines = []
        for _ in range(2):
            colour = draw.randrange(2)
            w, h = (draw.randrange(size // 4, size // 2) for _ in range(2))
            x, y = draw.randrange(size - w), draw.randrange(size - h)
            picture[y : y + h, x : x + w] = ((255, 80, 40), (40, 80, 255))[colour]
            box = (x + w / 2, y + h / 2, w, h)
            around = (x, y, x + w, y, x + w, y + h, x, y + h)
            parts = {"boxes": box, "corners": around, "keypoints": box}[labels]
            words = [f"{v / size:.6f}" for v in parts]
            if labels == "keypoints":  # each is there to be seen: 2
                pairs = zip(around[::2], around[1::2], strict=True)
                words += [
                    word for a, b in pairs for word in (f"{a / size:.6f}", f"{b / size:.6f}", "2")
                ]
            lines.append(" ".join([str(colour), *words]))
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        (folder / "labels" / f"{i}.txt").write_text("\n".join(lines) + "\n")
    config = folder / "data.yaml"
    config.write_text(
        f"path: {folder.resolve()}\ntrain: images\nval: images\nnames: {{0: red, 1: blue}}\n"
        + ("kpt_shape: [4, 3]\n" if labels == "keypoints" else "")
    )
    return config


def classes(folder: Path, size: int = 32) -> Path:
    """Images of two classes in folders, as Ultralytics classifies."""
    import cv2

    for kind in ("train", "val"):
        for name, colour in (("dark", 60), ("bright", 220)):
            (folder / kind / name).mkdir(parents=True)
            for i in range(4):
                noise = np.random.default_rng(i).integers(
                    0, colour, (size, size, 3), dtype=np.uint8
                )
                cv2.imwrite(str(folder / kind / name / f"{i}.png"), noise)
    return folder
