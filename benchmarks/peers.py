"""Who is measured: ours, torch's and the peers' optimizers, and which of them are compared."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

Options = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One contender: a class of a package and its arguments."""

    name: str
    module: str
    cls: str
    arguments: Options = field(default_factory=dict)
    options: tuple[tuple[str, Options], ...] = ()  # ours only: classes of thalweg.options
    compiled: bool = False

    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; raises whatever the import or the constructor raises."""
        cls = getattr(import_peer(self.module), self.cls)
        arguments = dict(self.arguments)
        if self.options:
            kinds = importlib.import_module("thalweg.options")
            arguments["options"] = [getattr(kinds, name)(**given) for name, given in self.options]
        optimizer: torch.optim.Optimizer = cls(parameters, **arguments)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free ones ask for it
        if self.compiled:
            optimizer.step = torch.compile(optimizer.step)  # type: ignore[assignment]
        return optimizer


@dataclass(frozen=True)
class Comparison:
    """Contenders that take turns in one process; times are ratios to ``base``."""

    name: str
    rows: tuple[Row, ...]
    base: str
    slots: int  # tensors of state an element, at most: for the memory needed
    streams: int | None = None  # slots of the kernel without arithmetic, where one makes sense
    steps: int = 1  # steps in one sample: a whole cycle where not all steps cost the same
    warmup: int = 3  # untimed steps: beyond RAdam's first, unrectified ones where it matters
    absent: tuple[tuple[str, str], ...] = ()  # peers that have nothing of their own to compare


def import_peer(module: str) -> Any:
    """Import a contender's package.

    timm imports torchvision, and a torchvision whose compiled part does not fit the installed
    torch fails at import on operators that no optimizer uses: declare them and try again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except RuntimeError as error:
            if "torchvision::" not in str(error) or _KEPT:
                raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            declared = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(declared)  # type: ignore[no-untyped-call]
        _KEPT.append(library)  # its operators end with it
        return importlib.import_module(module)


_KEPT: list[torch.library.Library] = []
_MODES: dict[str, Options] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "eager": {"fused": False, "foreach": False},
}


def ours(cls: str, **arguments: Any) -> list[Row]:
    """Our class on each backend."""
    return [
        Row(f"thalweg {mode}", "thalweg", cls, {**arguments, **flags})
        for mode, flags in _MODES.items()
    ]


def torch_rows(cls: str, *, fused: bool = True, **arguments: Any) -> list[Row]:
    modes: dict[str, Options] = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}}
    if fused:
        modes["for-loop"] = {"foreach": False, "fused": False}
        modes["fused"] = {"fused": True}
    rows = [
        Row(f"torch {mode}", "torch.optim", cls, {**arguments, **flags})
        for mode, flags in modes.items()
    ]
    compiled = {**arguments, "foreach": True}
    return [*rows, Row("torch compile", "torch.optim", cls, compiled, compiled=True)]


def peer(name: str, module: str, cls: str, *modes: bool, **arguments: Any) -> list[Row]:
    """A peer's class; with ``modes``, once for each value of ``foreach``."""
    if not modes:
        return [Row(name, module, cls, arguments)]
    titles = {False: f"{name} for-loop", True: f"{name} foreach"}
    return [Row(titles[m], module, cls, {**arguments, "foreach": m}) for m in modes]


def _adam(name: str) -> Comparison:
    given: Options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    given["weight_decay"] = 0.01 if name == "AdamW" else 0.0
    rows = ours(name, **given) + torch_rows(name, **given)
    rows += peer("optimi", "optimi", name, False, True, **given)
    absent = [("pytorch_optimizer", f"its {name} is torch's")]
    if name == "AdamW":
        rows += peer("timm", "timm.optim", "AdamWLegacy", **given)
    else:
        absent.append(("timm", "its Adam is torch's"))
    return Comparison(name.lower(), tuple(rows), "torch fused", 2, 2, absent=tuple(absent))


def _sgd() -> Comparison:
    given: Options = {"lr": 1e-3, "momentum": 0.9}
    rows = ours("SGD", **given) + torch_rows("SGD", **given)
    rows += peer("optimi", "optimi", "SGD", False, True, **given)
    # without decay the decoupled variants are the same algorithm, and written by the peers
    rows += peer("pytorch_optimizer", "pytorch_optimizer", "SGDW", False, True, **given)
    rows += peer("timm", "timm.optim", "SGDW", False, True, **given)
    return Comparison("sgd", tuple(rows), "torch fused", 1, 1)


def _radam() -> Comparison:
    given: Options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    rows = ours("RAdam", **given) + torch_rows("RAdam", fused=False, **given)
    rows += peer("optimi", "optimi", "RAdam", False, True, **given)
    rows += peer("pytorch_optimizer", "pytorch_optimizer", "RAdam", False, True, **given)
    rows += peer("timm", "timm.optim", "RAdamLegacy", **given)
    return Comparison("radam", tuple(rows), "torch foreach", 2, 2, warmup=6)


def _lion() -> Comparison:
    given: Options = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.01}
    adamw: Options = {"lr": 1e-3, "weight_decay": 0.01, "fused": True}
    rows = [*ours("Lion", **given), Row("thalweg AdamW fused", "thalweg", "AdamW", adamw)]
    rows += peer("optimi", "optimi", "Lion", False, True, **given)
    rows += peer("pytorch_optimizer", "pytorch_optimizer", "Lion", False, True, **given)
    rows += peer("timm", "timm.optim", "Lion", False, True, **given)
    rows += peer("lion-pytorch", "lion_pytorch", "Lion", **given)
    return Comparison("lion", tuple(rows), "thalweg fused", 2, 1)


def _ranger() -> Comparison:
    given: Options = {"lr": 1e-3, "betas": (0.95, 0.999), "eps": 1e-5}
    cycle: Options = {**given, "k": 6, "alpha": 0.5}
    rows = ours("Ranger", **cycle)
    rows += peer("optimi", "optimi", "Ranger", False, True, **cycle)
    rows += peer("pytorch_optimizer", "pytorch_optimizer", "Ranger", False, True, **cycle)
    absent = (("timm", "has no Ranger"), ("torch", "has no Ranger"))
    base = "thalweg fused"
    return Comparison("ranger", tuple(rows), base, 3, steps=6, warmup=6, absent=absent)


PLAIN = "AdamW"  # the base of the options
ELEMENTWISE: dict[str, tuple[str, Options]] = {
    "AdamW decay l2": ("Decay", {"style": "l2"}),
    "AdamW decay independent": ("Decay", {"style": "independent"}),
    "AdamW decay cautious": ("Decay", {"style": "decoupled", "cautious": True}),
    "AdamW + clip by value": ("ClipValue", {"max_value": 0.01}),
    "AdamW + cautious without rescaling": ("Cautious", {"rescale": False}),
}
REDUCING: dict[str, tuple[str, Options]] = {
    "AdamW + clip by global norm": ("ClipNorm", {"max_norm": 1.0}),
    "AdamW + cautious with rescaling": ("Cautious", {"rescale": True}),
}
LOOKAHEAD: dict[str, tuple[str, Options]] = {
    "AdamW + lookahead k=6": ("Lookahead", {"k": 6, "alpha": 0.5}),
}


def _options(name: str, chosen: dict[str, tuple[str, Options]], **more: Any) -> Comparison:
    given: Options = {"lr": 1e-3, "weight_decay": 0.01, "fused": True}
    rows = [Row(PLAIN, "thalweg", "AdamW", given)]
    rows += [Row(title, "thalweg", "AdamW", given, (option,)) for title, option in chosen.items()]
    return Comparison(name, tuple(rows), PLAIN, **more)


COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        _adam("AdamW"),
        _adam("Adam"),
        _sgd(),
        _radam(),
        _lion(),
        _ranger(),
        _options("options", {**ELEMENTWISE, **REDUCING}, slots=2),
        _options("lookahead", LOOKAHEAD, slots=3, steps=6, warmup=6),
    )
}
