"""A task that trains in milliseconds."""

import torch
from torch import nn

from thalweg.study import Split, Task


def blobs(reads: list[int] | None = None, flip: bool = False) -> Task:
    """Three clouds in the plane; every reading of the test split is noted in `reads`."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.arange(120) % 3
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    inputs = centres[targets] + 0.8 * torch.randn(120, 2, generator=generator)

    def read_test() -> Split:
        if reads is not None:
            reads.append(1)
        return Split(inputs[90:], (targets[90:] + flip) % 3)

    return Task(
        name="blobs",
        title="Blobs",
        train=Split(inputs[:64], targets[:64]),
        validation=Split(inputs[64:90], targets[64:90]),
        read_test=read_test,
        build_model=lambda: nn.Linear(2, 3),
        augment=lambda x, generator: x + 0.01 * torch.randn(x.shape, generator=generator),
        batch=16,
        target=0.8,
        every=3,
    )
