"""What a checkpoint needs besides what Ultralytics writes, so that resuming goes on from the same bits.

Ultralytics stores the averaged model in float16 and nothing else of the weights, and most of the optimizer's
state in float16. Beside that, under a key of its own within the optimizer's, goes all of it as it is. Tensors
that Ultralytics leaves whole are in the file once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from thalweg.recipe.models import unwrapped

__all__ = ["Whole", "gradients", "put_gradients", "take_whole", "unwrapped"]

TAG = "thalweg"


class Whole:
    """Stands for the optimizer while Ultralytics saves: its state_dict has one more entry.

    Args:
        optimizer: The optimizer.
        more: What else to keep.
    """

    def __init__(self, optimizer: Any, more: Mapping[str, Any]) -> None:
        self._optimizer, self._more = optimizer, more

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with what Ultralytics would store in half."""
        found = self._optimizer.state_dict()
        state = {key: dict(entries) for key, entries in found["state"].items()}
        return {**found, TAG: {**self._more, "state": state}}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


def take_whole(ckpt: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `Whole` kept in a checkpoint; the optimizer's state there becomes the whole one. None: nothing."""
    saved = ckpt.get("optimizer")
    if not saved or TAG not in saved:
        return None
    more: dict[str, Any] = saved[TAG]
    saved["state"] = more["state"]
    return more


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Those that wait for a step, by name."""
    return {n: p.grad.detach() for n, p in model.named_parameters() if p.grad is not None}


def put_gradients(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Put them back."""
    for name, p in model.named_parameters():
        if name in kept:
            p.grad = kept[name].to(p.device, copy=True)
