"""YOLOv5's hyper-parameters: the defaults it publishes, from a dict or from its YAML files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from thalweg.errors import ArgumentError, ArgumentTypeError, suggest

DEFAULTS: dict[str, float] = {
    "lr0": 0.01,
    "lrf": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
}
"""Of its training from scratch, as far as the optimizer is concerned."""

OTHERS = frozenset(
    (
        *("box", "cls", "cls_pw", "obj", "obj_pw", "iou_t", "anchor_t", "anchors", "fl_gamma"),
        *("label_smoothing", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear"),
        *("perspective", "flipud", "fliplr", "mosaic", "mixup", "copy_paste"),
    )
)
"""What the same files say to the loss and to the augmentation."""

BELOW_ONE = ("momentum", "warmup_momentum")


def given(hyp: Mapping[str, float] | str | Path | None) -> dict[str, float]:
    """Return those of `DEFAULTS` that were given, checked.

    Raises:
        ArgumentError: A number out of range, or a name that is near one of ours and is none.
        ArgumentTypeError: What should be a number is none.
        OSError: There is no such file.
    """
    where = "hyp" if hyp is None or isinstance(hyp, Mapping) else str(hyp)
    read = {} if hyp is None else hyp if isinstance(hyp, Mapping) else _read(Path(hyp))
    found: dict[str, float] = {}
    for name, value in read.items():
        if name in DEFAULTS:
            found[name] = _checked(name, value, where)
        elif name not in OTHERS and suggest(name, DEFAULTS):
            raise ArgumentError(
                f"{where} has {name!r}, which YOLOv5 does not know.{suggest(name, DEFAULTS)}"
            )
    return found


def _checked(name: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(
            f"{where}: {name} is {value!r}; it must be a number; typical: {DEFAULTS[name]}"
        )
    low = value < 0.0 or (name == "lr0" and value == 0.0)
    if low or not math.isfinite(value) or (name in BELOW_ONE and value >= 1.0):
        bound = "> 0" if name == "lr0" else "in [0, 1)" if name in BELOW_ONE else ">= 0"
        raise ArgumentError(
            f"{where}: {name} is {value!r}; it must be {bound}; typical: {DEFAULTS[name]}"
        )
    return float(value)


def _read(path: Path) -> dict[str, float]:
    """Read lines `name: number  # why`, which is all that YOLOv5's files have.

    Not a YAML library's numbers: those take 1E-2 for text.
    """
    found: dict[str, float] = {}
    for i, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
        text = line.partition("#")[0].strip().lstrip("\ufeff")
        if not text or text in ("---", "..."):
            continue
        name, colon, value = (part.strip() for part in text.partition(":"))
        try:
            found[name.strip("'\"")] = float(value)
        except ValueError:
            if colon and name.strip("'\"") not in DEFAULTS:
                continue  # a path, a list: said to others
            raise ArgumentError(
                f"{path}, line {i}: {line.strip()!r} does not read as 'name: number', as 'lr0: 0.01'"
            ) from None
    return found
