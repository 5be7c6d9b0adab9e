"""Surfaces of two coordinates on which optimizers are watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import ArgumentError, suggest

Pair = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A function of two coordinates, where to start, and where it is lowest.

    Args:
        name: what ``--surface`` calls it.
        title: what a figure calls it.
        height: maps coordinates x and y, tensors of one shape, to heights of that shape.
        start: where every path begins.
        minimum: its lowest point; the height there is 0.
        across: the lowest and highest x that is drawn.
        up: the lowest and highest y that is drawn.
    """

    name: str
    title: str
    height: Callable[[Tensor, Tensor], Tensor]
    start: Pair
    minimum: Pair
    across: Pair
    up: Pair

    def __call__(self, point: Tensor) -> Tensor:
        """Return the height at a point, a tensor of two elements."""
        return self.height(point[0], point[1])

    def distance(self, points: Tensor) -> Tensor:
        """Return the Euclidean distance to the minimum of each row of an (n, 2) tensor."""
        minimum = torch.tensor(self.minimum, dtype=points.dtype)
        distance: Tensor = torch.linalg.vector_norm(points - minimum, dim=1)
        return distance


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """Return (x - 1)^2 / 20 + (y - 1)^2: a long valley, twenty times as steep across as along.

    It is lowest away from zero, or weight decay would look like a good direction.

    Example:
        >>> import torch
        >>> ravine(torch.tensor(11.0), torch.tensor(2.0)).item()
        6.0
    """
    return (x - 1) ** 2 / 20 + (y - 1) ** 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """Return (1 - x)^2 + 100 (y - x^2)^2: a bent valley with a nearly flat floor.

    Reference:
        Rosenbrock 1960, "An automatic method for finding the greatest or least value of a
        function", The Computer Journal 3.
    """
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum over i = 1, 2, 3 of (c_i - x (1 - y^i))^2 with c = 1.5, 2.25, 2.625.

    Plateaus between steep walls.

    Reference:
        Beale 1958, "On an iterative method for finding a local minimum of a function of more
        than one variable", Princeton; as in More, Garbow, Hillstrom 1981, ACM TOMS 7, problem 5.
    """
    return (1.5 - x * (1 - y)) ** 2 + (2.25 - x * (1 - y**2)) ** 2 + (2.625 - x * (1 - y**3)) ** 2


def rastrigin(x: Tensor, y: Tensor) -> Tensor:
    """Return 20 + x^2 - 10 cos(2 pi x) + y^2 - 10 cos(2 pi y): a bowl full of pits.

    Reference:
        Rastrigin 1974, "Systems of extremal control", Nauka.
    """
    bumps = torch.cos(2 * torch.pi * x) + torch.cos(2 * torch.pi * y)
    return 20 + x**2 + y**2 - 10 * bumps


SURFACES = {
    surface.name: surface
    for surface in (
        Surface("ravine", "Ravine", ravine, (-8.0, 3.5), (1.0, 1.0), (-9.0, 5.0), (-2.5, 4.5)),
        Surface(
            "rosenbrock",
            "Rosenbrock",
            rosenbrock,
            (-1.2, 1.0),
            (1.0, 1.0),
            (-1.8, 1.8),
            (-0.8, 2.4),
        ),
        Surface("beale", "Beale", beale, (1.0, 1.6), (3.0, 0.5), (-0.8, 4.2), (-2.3, 2.3)),
        Surface(
            "rastrigin", "Rastrigin", rastrigin, (3.4, 2.45), (0.0, 0.0), (-0.7, 3.7), (-0.7, 2.9)
        ),
    )
}
"""The surfaces by name; add an entry to add one."""


def load_surface(name: str) -> Surface:
    """Return a surface by its name.

    Raises:
        ArgumentError: for a name that is not in ``SURFACES``.
    """
    if name not in SURFACES:
        known = ", ".join(sorted(SURFACES))
        raise ArgumentError(
            f"Unknown surface: {name!r}.{suggest(name, SURFACES)} Known surfaces: {known}."
        )
    return SURFACES[name]
