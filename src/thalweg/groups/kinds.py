"""Groups by what a parameter is for: weights with decay; norms and biases without."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thalweg.errors import ArgumentError
from thalweg.groups.parameters import kind, parameters
from thalweg.groups.patterns import all_match, matchers
from thalweg.groups.result import Groups, Part, assemble, decayed, empty

YOLO = {"bias": ".bias", "weight": "conv.weight", "bn": "other"}
"""YOLO's groups, and what the log line calls them."""

YOLO_TAGS = {"bias": "bias", "norm": "bn", "vector": "bn"}
"""Where parameters go by their kind, if they are not weights."""


def no_decay(
    model: nn.Module,
    weight_decay: float | None = None,
    *,
    embeddings: bool = False,
    skip: str | type[nn.Module] | Sequence[str | type[nn.Module]] = (),
    norms: tuple[type[nn.Module], ...] = (),
    frozen: bool = False,
    allow_empty: bool = False,
) -> Groups:
    """Two groups: weights with decay; norms, biases and other vectors without.

    What most training recipes do: decay pulls towards zero what multiplies the features, and has no reason
    to pull on offsets and on the scales of normalized features. Norms are told by the type of their
    module, not by their names. Vectors of other modules (LayerScale, temperatures) count as scales.

    Args:
        model: The module.
        weight_decay: Of the first group; None: the optimizer's own number.
        embeddings: Whether embeddings go without decay too.
        skip: Patterns, as in `by_pattern`, of what else goes without; or one.
        norms: Types of normalization layers besides torch's and those called ...Norm.
        frozen: Whether parameters that require no gradient are grouped too.
        allow_empty: Whether a pattern may match nothing, and the group without decay be missing.

    Returns:
        Groups named "decay" and "no_decay".

    Raises:
        ValueError: A pattern matches nothing, or nothing is to go without decay.

    Reference:
        He et al. 2018, arXiv:1812.01187, section 3.1, "no bias decay".

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        >>> print(thalweg.groups.no_decay(model, 0.01).summary)
        Optimizer groups: 1 decay(weight_decay=0.01), 3 no_decay(weight_decay=0)
    """
    found, left_out = parameters(model, frozen=frozen)
    read = matchers(skip)
    free = {"bias", "norm", "vector"} | ({"embedding"} if embeddings else set())
    decay, without = Part("decay", decayed(weight_decay)), Part("no_decay", {"weight_decay": 0.0})
    for x in found:
        what, why = kind(x, norms)
        hit = next((m for m in read if m(x)), None)
        part = without if hit or what in free else decay
        part.chosen.append((x, f"matches {hit.text}" if hit else f"{what}, {why}"))
    if not allow_empty:
        all_match("skip", read, found, left_out)
        if not without.chosen:
            fix = "there are no norms and no biases to leave without decay"
            raise empty("no_decay", fix, [x for x in left_out if kind(x, norms)[0] in free])
    return assemble([decay, without], left_out)


def yolo(
    model: nn.Module,
    weight_decay: float | None = None,
    *,
    order: Sequence[str] = tuple(YOLO),
    norms: tuple[type[nn.Module], ...] = (),
    frozen: bool = False,
    allow_empty: bool = False,
) -> Groups:
    """YOLO's three groups: biases; convolution and linear weights, with decay; norm weights.

    The groups are tagged as Ultralytics tags them (`param_group`: "bias", "weight", "bn"), and biases come
    first: YOLO's warm-up finds them by the tag or, in older versions, by that position.

    Args:
        model: The module.
        weight_decay: Of the weights; None: the optimizer's own number. YOLOv5 has 0.0005.
        order: The tags in another order.
        norms: Types of normalization layers besides torch's and those called ...Norm.
        frozen: Whether parameters that require no gradient are grouped too; Ultralytics does, and its `dfl`
            is such a one.
        allow_empty: Whether a group may have no parameters; it is there all the same, so that positions
            hold.

    Returns:
        The groups; `summary` is YOLOv5's log line.

    Raises:
        ValueError: A group is empty, or `order` is not an order of the three tags.

    Reference:
        Jocher 2020, YOLOv5; the groups of its `smart_optimizer`.

    Differs:
        A bias is what is called so by its own name in its module and is a vector: YOLOv5 asks for exactly
        `bias`, so that attention's `in_proj_bias` is decayed there; Ultralytics looks at the full name, so
        that all of a module called `bias_net`, and a table of relative position biases, would be biases. A
        norm is also a class called ...Norm that is not torch's; vectors and single numbers of other modules
        (an unknown norm's weight, LayerScale, CLIP's logit scale) go with the norms, where both mostly decay
        them. A weight that modules share stands once.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> thalweg.groups.yolo(model, 0.0005).summary
        'Optimizer groups: 2 .bias, 1 conv.weight, 1 other'
    """
    if sorted(order) != sorted(YOLO):
        raise ArgumentError(f"order={tuple(order)!r}; it must have each of {', '.join(YOLO)} once")
    found, left_out = parameters(model, frozen=frozen)
    parts = {tag: Part(tag, {"weight_decay": 0.0}) for tag in order}
    parts["weight"].numbers = decayed(weight_decay)
    for x in found:
        what, why = kind(x, norms)
        parts[YOLO_TAGS.get(what, "weight")].chosen.append((x, why))
    for tag, part in parts.items():
        if not part.chosen and not allow_empty:
            fix = "name the type of your normalization layers, norms=(MyNorm,)"
            frozen_ones = [x for x in left_out if YOLO_TAGS.get(kind(x, norms)[0], "weight") == tag]
            fix = fix if tag == "bn" else "look at the model"
            raise empty(f"YOLO's group {tag!r}", fix, frozen_ones)
    line = ", ".join(f"{len(parts[tag].chosen)} {said}" for tag, said in YOLO.items())
    return assemble(
        [parts[tag] for tag in order],
        left_out,
        line=f"Optimizer groups: {line}",
        keep_empty=True,
    )
