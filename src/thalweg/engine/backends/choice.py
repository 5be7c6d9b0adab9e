"""Which backend a bucket runs on, and why."""

from __future__ import annotations

import warnings
from types import ModuleType

import torch

from thalweg.engine.backends import LAYOUTS, c_run, eager, foreach, triton_run
from thalweg.errors import BackendError

KERNEL_DEVICES = ("cpu", "cuda")

_said: set[str] = set()


def kernel_for(device: torch.device) -> ModuleType:
    """The module that compiles kernels for a device."""
    return triton_run if device.type == "cuda" else c_run


def check_fusable(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what no kernel is for, in torch's words.

    Raises:
        BackendError: The parameter is no floating point number, or is on another device.
    """
    if not (dtype.is_floating_point or dtype.is_complex) or device.type not in KERNEL_DEVICES:
        raise BackendError(
            "`fused=True` requires all the params to be floating point Tensors of supported devices: "
            f"{list(KERNEL_DEVICES)} but {dtype} and {device.type}"
        )


def choose(
    layout: str, device: torch.device, *, use_foreach: bool | None, use_fused: bool | None
) -> tuple[ModuleType, str]:
    """The backend's module and the reason, as `explain()` says it.

    `fused` and `foreach` mean what they mean in torch: None, None is the kernel where it is possible;
    fused=True is the kernel or an error; foreach=True is lists; foreach=False without fused is eager.

    Raises:
        BackendError: fused=True, and the kernel cannot run.
    """
    kernel = kernel_for(device)
    if use_fused or (use_fused is None and use_foreach is None):
        obstacle = kernel.why_not(layout, device)
        if obstacle is None:
            return kernel, "fused=True" if use_fused else "the default"
        if use_fused:
            raise BackendError(
                f"`fused=True` cannot run here: {obstacle}. Leave fused=None to use what can."
            )
        return (eager, obstacle) if layout in LAYOUTS else without_kernels(obstacle)
    if layout in ("rows", "differentiable"):
        return eager, LAYOUTS[layout]
    if use_foreach or (use_foreach is None and layout == "dense"):
        return foreach, "foreach=True" if use_foreach else "fused=False"
    return eager, "foreach=False" if use_foreach is False else f"fused=False, and {LAYOUTS[layout]}"


def without_kernels(obstacle: str) -> tuple[ModuleType, str]:
    """Lists, where a kernel was wanted and cannot be had; said once for each reason."""
    if obstacle not in _said:
        _said.add(obstacle)
        warnings.warn(f"thalweg runs without fused kernels: {obstacle}", stacklevel=9)
    return foreach, obstacle
