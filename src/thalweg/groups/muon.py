"""Groups for Muon: the matrices of hidden layers, and all else for AdamW."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thalweg.groups.parameters import Parameter, extent, kind, parameters
from thalweg.groups.patterns import all_match, matchers
from thalweg.groups.result import Groups, Part, assemble, decayed, empty


def muon(
    model: nn.Module,
    weight_decay: float | None = None,
    *,
    exclude: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None = None,
    include: str | type[nn.Module] | Sequence[str | type[nn.Module]] = (),
    convolutions: bool = True,
    norms: tuple[type[nn.Module], ...] = (),
    frozen: bool = False,
    allow_empty: bool = False,
) -> Groups:
    """Three groups: hidden matrices for Muon; embeddings and the last layer for AdamW; the rest undecayed.

    For `thalweg.MuonAdamW`, whose groups say `use_muon`. Muon's authors keep embeddings and the output layer
    out of it: their rows are used one at a time, so that there is no map to be orthogonal. Hidden matrices
    are those of linear layers, convolutions and torch's attention; matrices of other modules (positions,
    tokens, layers of one's own) are AdamW's unless `include` names them.

    Args:
        model: The module.
        weight_decay: Of the first two groups; None: the optimizer's own number.
        exclude: Patterns, as in `by_pattern`, of matrices that AdamW gets besides embeddings. None: the
            linear layer that the model lists last, which the table names; (): none.
        include: Patterns of matrices in other modules that Muon gets too.
        convolutions: Whether kernels of convolutions are matrices, of which the output channels are rows.
        norms: Types of normalization layers besides torch's and those called ...Norm.
        frozen: Whether parameters that require no gradient are grouped too.
        allow_empty: Whether a pattern may match nothing, and there may be no hidden matrix.

    Returns:
        Groups named "muon", "adamw" and "adamw_no_decay".

    Raises:
        ValueError: A pattern matches nothing, or no hidden matrix is left.

    Reference:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> groups = thalweg.groups.muon(model)
        >>> [(g["param_group"], g["param_names"]) for g in groups]
        [('muon', ['0.weight']), ('adamw', ['2.weight']), ('adamw_no_decay', ['0.bias', '2.bias'])]
        >>> optimizer = thalweg.MuonAdamW(groups)
    """
    found, left_out = parameters(model, frozen=frozen)
    out, also = matchers(exclude or ()), matchers(include)
    last = None if exclude is not None else _last_linear(model, found)
    parts = {
        "muon": Part("muon", {"use_muon": True, **decayed(weight_decay)}),
        "adamw": Part("adamw", {"use_muon": False, **decayed(weight_decay)}),
        "adamw_no_decay": Part("adamw_no_decay", {"use_muon": False, "weight_decay": 0.0}),
    }
    for x in found:
        what, why = kind(x, norms)
        hit = next((m for m in out if m(x)), None)
        asked = next((m for m in also if m(x)), None)
        if what in ("bias", "norm", "vector"):
            tag, reason = "adamw_no_decay", f"{what}, {why}"
        elif hit or x is last:
            tag, reason = "adamw", f"matches {hit.text}" if hit else "the last linear layer"
        elif extent(x.tensor) < 2:
            tag, reason = "adamw", f"a single row or column, {why}"
        elif asked:
            tag, reason = "muon", f"matches {asked.text}"
        elif what == "embedding" or not x.is_map or (not convolutions and x.tensor.ndim > 2):
            tag, reason = "adamw", why
        else:
            tag, reason = "muon", f"matrix, {why}"
        parts[tag].chosen.append((x, reason))
    if not allow_empty:
        all_match("exclude", out, found, left_out)
        all_match("include", also, found, left_out)
        if not parts["muon"].chosen:
            frozen_ones = [x for x in left_out if x.is_map and extent(x.tensor) > 1]
            fix = "there is no hidden matrix in this model; AdamW alone will do"
            raise empty("muon", fix, frozen_ones)
    return assemble(list(parts.values()), left_out)


def _last_linear(model: nn.Module, found: Sequence[Parameter]) -> Parameter | None:
    """The matrix of the linear layer that comes last; it may be an embedding's, shared."""
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    for x in found:
        if x.tensor.ndim >= 2 and any(place.module is m for place in x.places for m in last):
            return x
    return None
