"""What all wrappers share: an optimizer around an optimizer, with the same groups and one checkpoint."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from thalweg.engine import inspection
from thalweg.engine.backends.toolchain import keeping_threads, step_threads
from thalweg.engine.groups import TRAINING
from thalweg.engine.matching import by_name
from thalweg.engine.option import OPTIONS
from thalweg.engine.rule import Group, Hyper
from thalweg.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    StepError,
    unknown,
)
from thalweg.wrappers.protocol import check_layout, check_optimizer

Closure = Callable[[], Any]
MODES = ("train", "eval", "averaged")
"""Methods of optimizers that average: each puts other weights into the parameters."""
F = TypeVar("F", bound=Callable[..., Any])


def _with_own_hooks(step: F) -> F:
    """Run a wrapper's step between its own hooks, and tell torch that this is done.

    torch would also run the hooks of all optimizers (`register_optimizer_step_post_hook`) around the
    wrapper's step; they have run already, around the wrapped one's.
    """

    @functools.wraps(step)
    def hooked(self: Wrapper, *args: Any, **kwargs: Any) -> Any:
        args = (self, *args)
        for before in list(self._optimizer_step_pre_hooks.values()):
            changed = before(self, args, kwargs)
            if changed is None:
                continue
            if not isinstance(changed, tuple) or len(changed) != 2:
                raise StepError(
                    f"{step} must return None or a tuple of (new_args, new_kwargs), but got {changed}."
                )
            args, kwargs = changed
        out = step(*args, **kwargs)
        for after in list(self._optimizer_step_post_hooks.values()):
            after(self, args, kwargs)
        return out

    hooked.hooked = True  # type: ignore[attr-defined]
    return cast(F, hooked)


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, which it drives.

    `param_groups`, `state` and `defaults` are the wrapped optimizer's own, read through at every use, so
    that a scheduler on either object, a loaded checkpoint or an added group is seen by both. The wrapper's
    numbers are keys of these groups, and what it keeps per parameter stands in this state, after the
    wrapped one has made its own (many make it where they find none). Both carry the wrapper's label. A
    subclass declares its label and numbers and implements `_advance`.
    """

    label: ClassVar[str]
    hypers: ClassVar[tuple[Hyper, ...]]
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {}
    wrappable: ClassVar[bool] = True
    """Whether other wrappers may go around this one."""

    # The scaler must divide the gradients itself: the wrapped optimizer would not see what it sets here.
    _step_supports_amp_scaling: bool = False

    def __init__(self, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        title = type(self).__name__
        check_optimizer(title, optimizer)
        self._check_nesting(optimizer)
        self.base_optimizer = optimizer
        self._settings = {f"{self.label}_{name}": value for name, value in settings.items()}
        self._check_settings(self._settings, "")
        for i, group in enumerate(optimizer.param_groups):
            self._check_spelling(group, i)
        # Groups, state and defaults are the wrapped optimizer's: of torch's constructor only what it
        # makes anew for every copy is wanted, the hooks.
        super().__setstate__({})
        for group in optimizer.param_groups:
            group.update(self._settings)

    def _check_nesting(self, optimizer: torch.optim.Optimizer) -> None:
        title, inner = type(self).__name__, optimizer
        while isinstance(inner, Wrapper):
            if type(inner) is type(self):
                raise ArgumentError(f"{title} is around this optimizer already; wrap it once")
            if not inner.wrappable:
                other = type(inner).__name__
                raise ArgumentError(
                    f"{other} must be the outermost wrapper: write {other}({title}(optimizer))"
                )
            inner = inner.base_optimizer
        for name in {name for group in inner.param_groups for name in group.get("options", ())}:
            if name == self.label:
                raise ArgumentError(
                    f"{type(inner).__name__} has the option {name} already, with the same names in "
                    "groups and state: use the option or the wrapper"
                )
            if name in OPTIONS and self.label in OPTIONS[name].excludes:
                raise ArgumentError(
                    f"{title} cannot go around {type(inner).__name__}: its option {name} excludes "
                    f"{self.label}"
                )

    def _check_settings(self, settings: Mapping[str, Any], where: str) -> None:
        """Refuse numbers out of range and unknown choices."""
        title = type(self).__name__
        for h in self.hypers:
            complaint = h.complaint(settings[f"{self.label}_{h.name}"])
            if complaint:
                raise ArgumentError(
                    f"{complaint}. {title} needs {h.range}{where}; typical: {h.typical}."
                )
        for name, allowed in self.choices.items():
            value = settings[f"{self.label}_{name}"]
            if not any(value is a or (value == a and type(value) is type(a)) for a in allowed):
                raise ArgumentError(
                    f"Invalid {name} value: {value!r}. {title} needs one of "
                    f"{', '.join(map(repr, allowed))}{where}."
                )

    def _check_spelling(self, group: Mapping[str, Any], index: int) -> None:
        """Refuse a key with the wrapper's label that is none of its numbers."""
        for key in group:
            if str(key).startswith(f"{self.label}_") and key not in self._settings:
                title = f"group {index} of {type(self).__name__}"
                raise ArgumentTypeError(unknown(title, key, list(self._settings)))

    # What is the wrapped optimizer's ----------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's groups, whichever list that is now."""
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The wrapped optimizer's state, in which the wrapper keeps its own."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's defaults."""
        return self.base_optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base_optimizer.defaults = defaults

    def __getattr__(self, name: str) -> Any:
        """Public methods and attributes of the wrapped one: `explain`, `train`, `eval`, ..."""
        if name.startswith("_") or "base_optimizer" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(self.base_optimizer, name)
        return self._guarded(name, found) if name in MODES and callable(found) else found

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that puts other weights into the parameters: not while the wrapper has its own there."""

        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._refuse_between(f"{name}()")
            return method(*args, **kwargs)

        return guarded

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.base_optimizer!r}"

    def summary(self) -> str:
        """The defaults, the groups, and what the shared state holds, with bytes."""
        wrapped = repr(self).partition(" (")[0]  # "SAM of Lookahead of AdamW"
        return inspection.summary(self).replace(type(self).__name__, wrapped, 1)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as the wrapped optimizer does."""
        self.base_optimizer.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to both; it may have the wrapper's numbers too, under their keys."""
        own = {key: param_group.get(key, value) for key, value in self._settings.items()}
        there = len(self.param_groups)
        self._check_settings(own, f", group {there}")
        self._check_spelling(param_group, there)
        rest = {key: value for key, value in param_group.items() if key not in own}
        self.base_optimizer.add_param_group(rest)
        for group in self.param_groups[there:]:  # MuonAdamW makes two of one
            group.update(own)

    # Steps ----------------------------------------------------------------------------------------

    @_with_own_hooks
    def step(self, closure: Closure | None = None) -> Any:
        """Take one step of the wrapped optimizer, and what the wrapper adds to it.

        Args:
            closure: Clears the gradients, evaluates the model again, and returns the loss.

        Returns:
            The loss of the closure's first call.
        """
        self._refuse_averages("step()")
        self._follow()
        evaluate = closure and keeping_threads(closure)
        with step_threads():
            return self._advance(evaluate)

    def _advance(self, closure: Closure | None) -> Any:
        raise NotImplementedError

    def _follow(self) -> None:
        """Give the wrapper's numbers to groups that the wrapped optimizer was given, or loaded, alone."""
        for i, group in enumerate(self.param_groups):
            for key, value in self._settings.items():
                group.setdefault(key, value)
            self._check_settings(group, f", group {i}")

    def _setting(self, group: Group, name: str) -> Any:
        return group[f"{self.label}_{name}"]

    def _refuse_between(self, what: str) -> None:
        """Raise where the parameters hold, for a while, what this wrapper or one inside put there."""
        if isinstance(self.base_optimizer, Wrapper):
            self.base_optimizer._refuse_between(what)

    def _refuse_averages(self, what: str) -> None:
        """Raise where they hold the averages that the wrapped optimizer keeps, until its `train()`."""
        if not all(group.get(TRAINING, True) for group in self.param_groups):
            raise StepError(
                f"{what} while the parameters hold their averages: call train(), or leave the averaged() "
                "block, first"
            )

    # Checkpoints and copies -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state and groups, and in them the wrapper's."""
        self._refuse_between("state_dict()")
        for before in list(self._optimizer_state_dict_pre_hooks.values()):
            before(self)
        self._follow()
        saved: Any = self.base_optimizer.state_dict()
        check_layout(f"{type(self.base_optimizer).__name__}.state_dict()", saved)
        for after in list(self._optimizer_state_dict_post_hooks.values()):
            changed = after(self, saved)
            saved = saved if changed is None else changed
        return cast(dict[str, Any], saved)

    def load_state_dict(self, state_dict: dict[str, Any], **arguments: Any) -> None:
        """Load a checkpoint of this wrapper, or of the wrapped optimizer alone; everything is copied.

        Parameters are matched by name where both know names, around torch's optimizers too.

        Args:
            state_dict: What `state_dict()` of either returned. Without the wrapper's entries it begins
                anew, from the weights as they are at the next step.
            **arguments: For the wrapped optimizer's `load_state_dict`: `strict=False` for ours.

        Raises:
            CheckpointError: The wrapper's entries do not fit the parameters; nothing was changed.
        """
        self._refuse_between("load_state_dict()")
        given: Any = state_dict
        for before in list(self._optimizer_load_state_dict_pre_hooks.values()):
            changed = before(self, given)
            given = given if changed is None else changed
        check_layout("the checkpoint", given)
        given = by_name(self.param_groups, given, strict=bool(arguments.get("strict", True)))
        given = {**given, "param_groups": [self._without_label(g) for g in given["param_groups"]]}
        entries, rest = self._parted(given)
        kept = [
            {key: g.get(key, v) for key, v in self._settings.items()} for g in self.param_groups
        ]
        for i, (own, group) in enumerate(zip(kept, given["param_groups"], strict=False)):
            self._check_settings({**own, **group}, f", group {i} of the checkpoint")
        self.base_optimizer.load_state_dict(rest, **arguments)
        for own, group in zip(kept, self.param_groups, strict=True):
            for key, value in own.items():
                group.setdefault(key, value)
        for p, entry in entries.items():
            self.state.setdefault(p, {}).update(entry)
        for after in list(self._optimizer_load_state_dict_post_hooks.values()):
            after(self)

    def _without_label(self, group: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's group without the option of that label, whose entries the wrapper takes."""
        if self.label not in group.get("options", ()):
            return group
        return {**group, "options": tuple(o for o in group["options"] if o != self.label)}

    def _parted(self, given: Mapping[str, Any]) -> tuple[dict[Tensor, dict[str, Any]], Any]:
        """Copies of the wrapper's entries by parameter, and the checkpoint without them."""
        prefix, state = f"{self.label}_", dict(given["state"])
        found: dict[Tensor, dict[str, Any]] = {}
        for key, p in _owners(self.param_groups, given["param_groups"]):
            saved = state.get(key) or {}
            own = {k: v for k, v in saved.items() if str(k).startswith(prefix)}
            if not own:
                continue
            found[p] = {k: _copied(p, k, v) for k, v in own.items()}
            state[key] = {k: v for k, v in saved.items() if k not in own}
        return found, {
            **given,
            "state": _alone(state),
        }  # torch's optimizers would share its tensors

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_between("a copy")
        self._follow()
        return {"base_optimizer": self.base_optimizer, "_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.base_optimizer = state["base_optimizer"]  # before torch reads defaults from it
        super().__setstate__(state)


def _owners(
    groups: Iterable[Mapping[str, Any]], saved: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Any, Tensor]]:
    """Keys of a checkpoint's state beside their parameters; torch refuses what does not pair up."""
    for group, packed in zip(groups, saved, strict=False):
        yield from zip(packed["params"], group["params"], strict=False)


def _copied(p: Tensor, key: str, value: Any) -> Any:
    """A copy of an entry: a tensor in its dtype and the parameter's layout, or a number."""
    if isinstance(value, int):
        return value
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"the checkpoint's {key!r} is {value!r}; it must be a tensor or a count"
        )
    if value.numel() == 1 and not (value.is_floating_point() or value.is_complex()):
        return int(value)  # a count, whatever carried it
    if value.shape != p.shape:
        raise CheckpointError(
            f"the checkpoint's {key!r} has shape {tuple(value.shape)} where the parameter has "
            f"{tuple(p.shape)}: the groups hold other parameters, or hold them in another order"
        )
    return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value.detach())


def _alone(value: Any) -> Any:
    """A copy of a checkpoint's state, of whatever it is made, that shares no tensor with it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _alone(x) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_alone, value))
    return copy.deepcopy(value)


def batches(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors that one `torch._foreach` call may take: of one class, device, dtype and mesh."""
    found: dict[Any, list[Tensor]] = {}
    for x in tensors:
        key = type(x), x.device, x.dtype, getattr(x, "device_mesh", None)
        found.setdefault(key, []).append(x)
    return list(found.values())


def elementwise(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pairs of equal layout as two lists for a `torch._foreach` call; of sharded tensors what is here."""
    found: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for x, y in pairs:
        x, y = _local(x), _local(y)
        xs, ys = found.setdefault((x.device, x.dtype, y.dtype), ([], []))
        xs.append(x)
        ys.append(y)
    return list(found.values())


def _local(x: Tensor) -> Tensor:
    return cast(Tensor, x.to_local()) if hasattr(x, "to_local") else x
