"""A model's parameters as the builders see them: each once, with all its names and its modules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from thalweg.errors import ArgumentError, ArgumentTypeError

NORMS = tuple(cls for name, cls in vars(nn).items() if "Norm" in name and isinstance(cls, type))
"""torch's normalization layers."""

MAPS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
"""Modules whose matrices map features to features."""

_NORM_NAME = re.compile(r"Norm(\dd)?$")
_PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.(\w+)\.original\d*$")


@dataclass(frozen=True)
class Place:
    """Where a parameter is used.

    Args:
        name: Its full name there.
        module: The module that uses it; of a parametrized weight the module that is parametrized.
        own: Its name in that module.
    """

    name: str
    module: nn.Module
    own: str

    @property
    def is_magnitude(self) -> bool:
        """Whether it holds the lengths of a weight's rows, as `weight_norm` has it."""
        return self.name.endswith(("original0", "_g"))


@dataclass(frozen=True)
class Parameter:
    """A parameter and every place that shares it, in the model's order."""

    tensor: nn.Parameter
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """The name that `named_parameters` gives it."""
        return self.places[0].name

    @property
    def is_map(self) -> bool:
        """Whether it is a matrix, or a kernel, of a layer that maps features to features."""
        return any(
            isinstance(place.module, MAPS) and not place.is_magnitude for place in self.places
        )

    @property
    def also(self) -> tuple[str, ...]:
        """The names that it has where else it is used."""
        return tuple(place.name for place in self.places[1:])


def parameters(
    model: nn.Module, *, frozen: bool = False
) -> tuple[list[Parameter], list[Parameter]]:
    """The parameters to group, and those left out.

    Args:
        model: The module.
        frozen: Whether to group those too that require no gradient.

    Raises:
        TypeError: It is no module.
        ValueError: Nothing is left to optimize, or a parameter has no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"groups are made of a torch.nn.Module, got {type(model).__name__}; pass the model itself, "
            "not its parameters"
        )
    places: dict[nn.Parameter, list[Place]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ArgumentError(
                f"{name!r} has no shape yet: run a batch through the model first, then make its groups"
            )
        places.setdefault(p, []).append(_place(model, name))
    found = [Parameter(p, tuple(where)) for p, where in places.items()]
    kept = [x for x in found if frozen or x.tensor.requires_grad]
    if not kept:
        raise ArgumentError(
            f"{type(model).__name__} has {len(found)} parameters, and none requires a gradient; call "
            "requires_grad_(True) on what should be trained, or pass frozen=True"
            if found
            else f"{type(model).__name__} has no parameters"
        )
    return kept, [x for x in found if not (frozen or x.tensor.requires_grad)]


def _place(model: nn.Module, name: str) -> Place:
    hidden = _PARAMETRIZED.search(name)
    prefix, own = (name[: hidden.start()], hidden[1]) if hidden else name.rpartition(".")[::2]
    return Place(name, model.get_submodule(prefix), own)


def kind(parameter: Parameter, norms: tuple[type[nn.Module], ...] = ()) -> tuple[str, str]:
    """What a parameter is for ("bias", "norm", "embedding", "vector" or "weight"), and how that is known.

    A tied one is an embedding if any module that uses it is. Norms are torch's, the user's, and modules
    whose class is called ...Norm, as LlamaRMSNorm or LayerNorm2d. A bias is what is called so and is a
    vector; a table of biases is a weight. A vector may have more dimensions, of one element each: a token of
    1x1xC, a scale of Cx1x1, the magnitudes of `weight_norm`; a matrix may be a single row.
    """
    first, long = parameter.places[0], extent(parameter.tensor)
    for place in parameter.places:
        if "bias" in place.own and long <= 1:
            return "bias", f"named {place.own}"
    for place in parameter.places:
        if is_norm(place.module, norms):
            return "norm", f"in {type(place.module).__name__}"
    for place in parameter.places:
        if isinstance(place.module, (nn.Embedding, nn.EmbeddingBag)):
            return "embedding", f"in {type(place.module).__name__}"
    scale = first.is_magnitude or (parameter.tensor.ndim > 2 and not parameter.is_map)
    if parameter.tensor.ndim <= 1 or (long <= 1 and scale):
        return "vector", f"{long}-dimensional, in {type(first.module).__name__}"
    return "weight", f"in {type(first.module).__name__}"


def extent(p: Tensor) -> int:
    """How many dimensions have more than one element."""
    return sum(n > 1 for n in shape(p))


def is_norm(module: nn.Module, norms: tuple[type[nn.Module], ...] = ()) -> bool:
    """Whether a module normalizes."""
    return isinstance(module, NORMS + norms) or any(
        _NORM_NAME.search(cls.__name__) for cls in type(module).__mro__
    )


def shape(p: Tensor) -> tuple[int, ...]:
    """A parameter's shape, as plain numbers."""
    return tuple(int(n) for n in p.shape)
