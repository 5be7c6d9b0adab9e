"""What a comparison trains on: data in three splits, a network, and a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import ArgumentError, suggest

SPLIT_SEED = 0  # the splits are part of the task: --seed never moves an image


@dataclass(frozen=True)
class Split:
    """Examples and their labels."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Split:
        """Return the same examples on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Task:
    """A classification problem small enough to train on many times.

    Args:
        name: what ``--task`` calls it.
        title: what a figure calls it.
        train: what is learned from.
        validation: what learning rates are chosen on.
        read_test: returns the test split; called once per finished run, after its last step.
        build_model: returns a new network, initialised from torch's global generator.
        augment: changes a batch of inputs, drawing from the generator it is given.
        batch: examples per step; the incomplete last batch of an epoch is left out.
        target: the validation accuracy (0 to 1) that "steps to" counts to.
        every: optimizer steps between two looks at the validation split.

    Raises:
        ArgumentError: if the training split does not fill one batch.
    """

    name: str
    title: str
    train: Split
    validation: Split
    read_test: Callable[[], Split]
    build_model: Callable[[], nn.Module]
    augment: Callable[[Tensor, torch.Generator], Tensor]
    batch: int = 64
    target: float = 0.97
    every: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= len(self.train):
            raise ArgumentError(
                f"Task {self.name!r} has batches of {self.batch} and {len(self.train)} training "
                "examples; needed is at least one whole batch."
            )


def small_convnet() -> nn.Module:
    """Return two convolutions and a linear head, 29,258 parameters.

    GroupNorm, because it keeps no running statistics: averaged or looked-ahead weights can be
    evaluated as they are.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image of shape (n, 1, h, w) by up to one pixel both ways, edges repeated.

    Without it the network knows the 1,077 training digits by heart after a few epochs, and every
    optimizer looks alike.
    """
    n, _, height, width = images.shape
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")[:, 0]
    top, left = torch.randint(0, 3, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, :, None].to(images.device)
    columns = (left[:, None] + torch.arange(width))[:, None, :].to(images.device)
    return padded[torch.arange(n, device=images.device)[:, None, None], rows, columns][:, None]


def digits() -> Task:
    """Return scikit-learn's 1,797 handwritten digits: 60 % train, 20 % validation, 20 % test.

    Reference:
        Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()

    def part(rows: list[int], *, share: float) -> tuple[list[int], list[int]]:
        labels = data.target[rows]
        kept, held = train_test_split(
            rows, test_size=share, stratify=labels, random_state=SPLIT_SEED
        )
        return kept, held

    rest, test = part(list(range(len(data.target))), share=0.2)
    train, validation = part(rest, share=0.25)
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    images = (images - images[train].mean()) / images[train].std()
    return Task(
        name="digits",
        title="Handwritten digits",
        train=Split(images[train], labels[train]),
        validation=Split(images[validation], labels[validation]),
        read_test=lambda: Split(images[test], labels[test]),
        build_model=small_convnet,
        augment=shift,
    )


TASKS: dict[str, Callable[[], Task]] = {"digits": digits}
"""The tasks by name; add an entry to add a task."""


def load_task(name: str) -> Task:
    """Return a task by its name.

    Raises:
        ArgumentError: for a name that is not in ``TASKS``.
    """
    if name not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise ArgumentError(f"Unknown task: {name!r}.{suggest(name, TASKS)} Known tasks: {known}.")
    return TASKS[name]()
