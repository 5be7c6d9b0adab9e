"""What a model holds that training changes: its parameters and buffers by name."""

from __future__ import annotations

from torch import Tensor, nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, DataParallel and `torch.compile`."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


def held(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return parameters and buffers by name, each tensor once, as `state_dict` names them.

    Buffers that `state_dict` leaves out (not persistent: caches, tables that can be computed) are left out.
    """
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    seen: set[int] = set()
    stack = [("", unwrapped(model))]
    while stack:
        prefix, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, p in module._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                parameters[prefix + name] = p
        for name, b in module._buffers.items():
            kept = b is not None and name not in module._non_persistent_buffers_set
            if b is not None and kept and id(b) not in seen:
                seen.add(id(b))
                buffers[prefix + name] = b
        children = [(f"{prefix}{n}.", m) for n, m in module._modules.items() if m is not None]
        stack.extend(reversed(children))
    return parameters, buffers
