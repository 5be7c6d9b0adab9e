"""YOLOv5's hyper-parameters: the defaults it publishes, from a dict or from its YAML files."""

from __future__ import annotations

import math
import numbers
import re
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

MEANT = {
    **dict.fromkeys(("lr", "learning_rate"), "'lr0'"),
    **dict.fromkeys(("beta1", "betas"), "'momentum'"),
    **dict.fromkeys(("wd", "decay"), "'weight_decay'"),
    "nbs": "the argument nominal=",
    **{name: f"the argument {name}=" for name in ("optimizer", "epochs", "batch_size", "nominal")},
}
"""What other tools' names are here."""

BELOW_ONE = ("momentum", "warmup_momentum")


def given(hyp: Mapping[str, float] | str | Path | None) -> dict[str, float]:
    """Return those of `DEFAULTS` that were given, checked.

    Raises:
        ArgumentError: A number out of range, a name that YOLOv5's files do not have, a line that does not
            read as `name: number`, a name that stands twice, or a file that says nothing of all this.
        ArgumentTypeError: It is neither a dict nor a path, or what should be a number is none.
        OSError: There is no such file.
    """
    if hyp is None:
        return {}
    if isinstance(hyp, Mapping):
        return _ours(hyp, "hyp")
    if not isinstance(hyp, (str, Path)):
        raise ArgumentTypeError(
            f"hyp is {hyp!r}; it must be a dict, as {{'lr0': 0.01}}, or the path of a YAML file"
        )
    found = _ours(_read(Path(hyp)), str(hyp))
    if not found:
        raise ArgumentError(f"{hyp} has none of {', '.join(DEFAULTS)}: it is no file of these")
    return found


def _ours(read: Mapping[str, float], where: str) -> dict[str, float]:
    for name in read:
        _known(name, where)
    return {name: _checked(name, x, where) for name, x in read.items() if name in DEFAULTS}


def _known(name: object, where: str) -> None:
    if name in DEFAULTS or name in OTHERS:
        return
    meant = MEANT.get(str(name).lower())
    hint = f" Here that is {meant}." if meant else suggest(str(name), DEFAULTS)
    raise ArgumentError(
        f"{where} has {name!r}, which YOLOv5's hyper-parameters do not.{hint} Known: "
        f"{', '.join(DEFAULTS)}; and those of its loss and augmentation, which are passed over"
    )


def _checked(name: str, value: object, where: str) -> float:
    typical = f"typical: {DEFAULTS[name]}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{where}: {name} is {value!r}; it must be a number; {typical}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    low = number < 0.0 or (name == "lr0" and number == 0.0)
    if low or not math.isfinite(number) or (name in BELOW_ONE and number >= 1.0):
        bound = "> 0" if name == "lr0" else "in [0, 1)" if name in BELOW_ONE else ">= 0"
        raise ArgumentError(
            f"{where}: {name} is {number!r}; it must be {bound} and finite; {typical}"
        )
    return number


def _read(path: Path) -> dict[str, float]:
    """Read lines `name: number  # why`, which is all that YOLOv5's files have.

    Not a YAML library's numbers: those take 1E-2 for text.
    """
    found: dict[str, float] = {}
    for i, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
        text = line.partition("#")[0].strip().lstrip("\ufeff")
        if not text or text in ("---", "..."):
            continue
        where = f"{path}, line {i}"
        name, colon, value = (part.strip() for part in text.partition(":"))
        name = name.strip("'\"")
        readable = colon and re.fullmatch(r"[\w-]+", name)
        if readable:
            _known(name, where)
        if name in found:
            raise ArgumentError(f"{where}: {name!r} stands there already; leave one of them out")
        number = _number(value) if readable else None
        if number is not None:
            found[name] = number
        elif name not in OTHERS:  # those may be lists, said to others
            raise ArgumentError(
                f"{where}: {line.strip()!r} does not read as 'name: number', as 'lr0: 0.01'"
            )
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
