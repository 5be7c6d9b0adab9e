"""Groups by depth: the nearer to the input, the smaller the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thalweg.errors import ArgumentError, ArgumentTypeError, suggest
from thalweg.groups.parameters import Parameter, kind, parameters
from thalweg.groups.result import Groups, Part, assemble, decayed


def layer_decay(
    model: nn.Module,
    lr: float,
    decay: float = 0.75,
    *,
    layers: str | Sequence[str] | None = None,
    weight_decay: float | None = None,
    norms: tuple[type[nn.Module], ...] = (),
    frozen: bool = False,
) -> Groups:
    """Groups by depth, with a learning rate that shrinks by a factor for every layer away from the output.

    For fine-tuning: early layers know general things and should keep them. What comes before the layers
    (embeddings, the stem) is depth 0, what comes after them (the head) has the full lr. Where nothing does
    (a frozen head counts), the last layer is the output and has it. Norms, biases and vectors go without
    decay, in a group of their own. Schedules multiply each group's own lr, so that the ratios stay.

    Formula:
        lr of depth d = lr * decay^(m - d), d = 0 before the n layers, 1 ... n, n + 1 behind them;
        m = n + 1, or n where nothing stands behind them

    Args:
        model: The module.
        lr: Of the head, or of the last layer where there is none, >= 0.
        decay: The factor, in (0, 1]; 0.65 to 0.9 are usual.
        layers: The name of the module whose children are the layers ("encoder.blocks"), or several in their
            order, each a layer if it is no list of modules. None: the one list of modules that has more
            than half of the model's elements.
        weight_decay: Of the weights; None: the optimizer's own number.
        norms: Types of normalization layers besides torch's and those called ...Norm.
        frozen: Whether parameters that require no gradient are grouped too.

    Returns:
        Groups named "layer 0", "layer 0 no_decay", "layer 1", ...; those without parameters are left out.

    Raises:
        ValueError: A name that the model has not, a number out of range, or no such list.

    Reference:
        Howard and Ruder 2018, arXiv:1801.06146 ("discriminative fine-tuning"); Clark et al. 2020,
        arXiv:2003.10555 (as a factor per layer); Bao et al. 2021, arXiv:2106.08254.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> groups = thalweg.groups.layer_decay(model, lr=1.0, decay=0.5, layers="")
        >>> [(g["param_names"], g["lr"]) for g in groups if "weight_decay" not in g]
        [(['0.weight'], 0.5), (['1.weight'], 1.0)]
    """
    if not lr >= 0:
        raise ArgumentError(f"Invalid learning rate: {lr}. layer_decay needs lr >= 0")
    if not 0 < decay <= 1:
        raise ArgumentError(f"Invalid decay value: {decay}. It must be in (0, 1]; typical: 0.75")
    found, left_out = parameters(model, frozen=frozen)
    stack = _children(model, _chosen(model, layers))
    depth_of = _depths(parameters(model, frozen=True)[0], stack)
    behind = any(depth > len(stack) for depth, _ in depth_of.values())
    top = len(stack) + behind
    parts = {}
    for depth in range(top + 1):
        own = {"lr": lr * decay ** (top - depth)}
        parts[depth, True] = Part(f"layer {depth}", {**own, **decayed(weight_decay)})
        parts[depth, False] = Part(f"layer {depth} no_decay", {**own, "weight_decay": 0.0})
    for x in found:
        what, why = kind(x, norms)
        depth, where = depth_of[x.name]
        is_decayed = what not in ("bias", "norm", "vector")
        parts[depth, is_decayed].chosen.append((x, f"{where}; {what}, {why}"))
    return assemble(list(parts.values()), left_out)


def _chosen(model: nn.Module, layers: str | Sequence[str] | None) -> list[str]:
    if isinstance(layers, str):
        return [layers]
    if layers is not None:
        return list(layers)
    total = sum(p.numel() for p in model.parameters())
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    }
    large = [n for n, m in stacks.items() if 2 * sum(p.numel() for p in m.parameters()) > total]
    # the innermost: a list whose only large part is another list is a wrapping
    chosen = [n for n in large if not any(o != n and o.startswith(f"{n}.") for o in large if n)]
    chosen = [n for n in chosen if n or len(large) == 1]
    if len(chosen) != 1:
        lists = ", ".join(f"{n!r} ({len(m)} children)" for n, m in list(stacks.items())[:6])
        raise ArgumentError(
            "no single list of modules has most of the parameters: say which are the layers, as "
            f"layers='encoder.blocks'. Lists: {lists or 'none'}"
        )
    return chosen


def _children(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The layers' names, in order."""
    known = dict(model.named_modules())
    found: list[str] = []
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"layers={names!r}; they are names of modules")
        if name not in known:
            raise ArgumentError(f"layers={name!r}: there is no such module.{suggest(name, known)}")
        is_list = isinstance(known[name], (nn.ModuleList, nn.Sequential, nn.ModuleDict))
        children = [f"{name}.{k}" if name else k for k, _ in known[name].named_children()]
        inside = children if is_list else [name]
        with_parameters = [n for n in inside if any(True for _ in known[n].parameters())]
        if not with_parameters:
            raise ArgumentError(f"layers={name!r}: there is no parameter in it; leave it out")
        found += with_parameters
    if len(set(found)) < max(2, len(found)):
        raise ArgumentError(
            f"layers={list(names)!r} are {', '.join(found)}; it needs two or more, each once"
        )
    return found


def _depths(found: Sequence[Parameter], stack: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Each parameter's depth; what is in no layer has its place where the model lists it."""
    inside = {
        x.name: next((i for i, n in enumerate(stack, 1) if x.name.startswith(f"{n}.")), 0)
        for x in found
    }
    last, seen = max(inside.values()), 0
    depths = {}
    for x in found:
        if inside[x.name]:
            seen = inside[x.name]
            depths[x.name] = seen, f"in {stack[seen - 1]}"
        elif seen == last:
            depths[x.name] = len(stack) + 1, "behind the layers"
        else:  # before them all, or between two: as the earlier one
            depths[x.name] = seen, f"after {stack[seen - 1]}" if seen else "before the layers"
    return depths
