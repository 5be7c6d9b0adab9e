"""The optimizer: a `torch.optim.Optimizer` around a rule; the only reader of `p.grad`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine import inspection
from thalweg.engine.arguments import (
    Strict,
    as_rule,
    check_flags,
    check_numbers,
    check_spelling,
    dissolved,
    naming_what_two_groups_have,
    numbers_of,
    saying_what_a_model_has,
    spell_out,
    taken_at_construction,
)
from thalweg.engine.averages import Averaging, keeps_average
from thalweg.engine.backends.choice import check_fusable
from thalweg.engine.backends.toolchain import step_threads
from thalweg.engine.checkpoint import (
    all_loaded,
    check_groups,
    check_keys,
    check_lengths,
    merged_group,
)
from thalweg.engine.groups import TRAINING, graph_of, number, resolve, wanted_slots
from thalweg.engine.matching import by_name
from thalweg.engine.option import Option, check_options, find_option
from thalweg.engine.plan import Plan, Plans
from thalweg.engine.prepare import Pending, Preparation, parameter_name
from thalweg.engine.rule import Group, Rule, find_rule
from thalweg.engine.state import Missing, make_slots, scalar_dtype, slots_of
from thalweg.engine.trace import hyper_key, state_keys
from thalweg.errors import (
    ArgumentError,
    BackendError,
    CheckpointError,
)


class Optimizer(Averaging, Strict, torch.optim.Optimizer):
    """Any rule as a torch optimizer.

    It is a real `torch.optim.Optimizer`: groups, state, hooks, closures, schedulers, checkpoints. The
    update runs as one fused kernel per kind of tensors where that is possible (`explain()` tells).

    Args:
        params: Parameters, (name, parameter) pairs, or dicts of groups, as in torch.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        rule: What `@thalweg.rule` made, or its name.
        options: What to compose around it: `[thalweg.options.Lookahead(k=6)]`; the order does not matter.
        foreach, fused: As in torch: None, None runs kernels where possible; fused=True does or raises;
            foreach=True works list by list; both False runs the reference, tensor by tensor.
        maximize: Climb instead of descend.
        capturable: Keep step counts on the device, for CUDA graphs.
        differentiable: Let autograd see the step.
        own: Group keys that a subclass reads itself, with their defaults.
        **hypers: The rule's numbers and switches by name, and `weight_decay`.

    Raises:
        ValueError: A number out of range, options that exclude each other, no parameters.
        TypeError: An unknown argument, or a rule that is none.

    Example:
        >>> import torch, thalweg
        >>> from thalweg.ops import lerp, sign
        >>> @thalweg.rule(slots=(thalweg.Slot("exp_avg"),), hypers=(thalweg.Hyper("beta", 0.9),))
        ... def my_sign(g, exp_avg, *, beta):
        ...     exp_avg = lerp(exp_avg, g, 1 - beta)
        ...     return sign(exp_avg), exp_avg
        >>> w = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = thalweg.Optimizer([w], lr=0.5, rule=my_sign)
        >>> w.grad = torch.tensor([1.0, -2.0, 0.0])
        >>> optimizer.step()
        >>> w.tolist()
        [0.5, 1.5, 1.0]
    """

    composes: ClassVar[tuple[type[Option], ...]] = ()
    """Options that the class puts around its rule itself."""
    _plan: Plan | None = None
    _plans: Plans | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        rule: Rule | str,
        options: Sequence[Option] = (),
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        own: Mapping[str, Any] | None = None,
        **hypers: Any,
    ) -> None:
        rule = as_rule(rule)
        chosen = check_options(options, type(self).__name__, self.composes)
        defaults: dict[str, Any] = {"lr": lr}
        defaults |= numbers_of(type(self).__name__, rule, hypers)
        defaults |= {"maximize": maximize, "foreach": foreach, "capturable": capturable}
        defaults |= {"differentiable": differentiable, "fused": fused, "rule": rule.key}
        defaults |= {**dissolved(chosen), **(own or {})}
        check_flags(defaults)
        check_numbers(type(self).__name__, defaults, "")
        with saying_what_a_model_has(params):
            super().__init__(params, defaults)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        spell_out(cls.__init__, Optimizer.__init__)

    # Groups ---------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its options, if it has any of its own, dissolve into plain keys.

        Args:
            param_group: As in torch, with any of the optimizer's arguments.

        Raises:
            ValueError: A number out of range, a parameter that another group has, or an option of the
                whole optimizer that the other groups do not share.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        index, title = len(self.param_groups), type(self).__name__
        group = self._own_keys(param_group)
        full = {**self.defaults, **group}
        check_spelling(f"group {index} of {title}", group, {*self.defaults, "params", "initial_lr"})
        where = f", group {index}{_first_name(group)}" if len(group) > 1 else ""
        check_flags(full)
        check_numbers(title, full, where)
        self._check_shared(full)
        for key, value in taken_at_construction(full, self.param_groups).items():
            group.setdefault(key, value)
        if keeps_average(full):  # from the start: flat distributed checkpoints load what is there
            group.setdefault(TRAINING, True)
        with naming_what_two_groups_have(group, self.param_groups):
            super().add_param_group(group)
        try:
            self._try_out(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise
        self._plan = self._plans = None

    @staticmethod
    def _try_out(group: Group) -> None:
        """Trace what the group will run, so that a broken rule is known before the first step."""
        resolved = resolve(group)
        for name in group["options"]:
            if name in resolved.rule.refuses:
                raise ArgumentError(
                    f"{resolved.rule.name} does not go with the option {name}: "
                    f"{resolved.rule.refuses[name]}; leave one out"
                )
        names = [key for label, owner in resolved.labelled() for key in state_keys(owner, label)]
        for name in names:
            if names.count(name) > 1:
                raise ArgumentError(
                    f"two parts of this group keep something under {name!r}: {resolved.rule.name} and an "
                    "option; call the rule's otherwise"
                )
        for p in {min(p.ndim, 2): p for p in group["params"]}.values():
            graph, _ = graph_of(resolved, resolved.setting(p, frozenset()))
            if graph.matrices and group["differentiable"]:
                raise BackendError(
                    f"`differentiable` is not supported by {resolved.rule.name}: autograd does not see "
                    "through functions of whole matrices"
                )
        for p in group["params"] if group["fused"] else ():
            # Parameters without storage may get it before the first step (`model.to_empty`).
            if p.device.type != "meta":
                check_fusable(p.dtype, p.device)

    def _own_keys(self, param_group: dict[str, Any]) -> dict[str, Any]:
        """A group's own keys as plain values: options dissolved, and all numbers of a rule of its own."""
        group = dict(param_group)
        options = group.pop("options", None)
        if options is not None and all(isinstance(name, str) for name in options):
            group["options"] = tuple(options)
        elif options is not None:
            group |= dissolved(check_options(options))
        if "rule" in group:
            rule = as_rule(group["rule"])
            names = {*rule.arguments(), *(h.place()[0] for h in rule.hypers)}
            given = {k: v for k, v in group.items() if k in names}
            group |= {"rule": rule.key, **numbers_of(type(self).__name__, rule, given)}
            group["weight_decay"] = param_group.get("weight_decay", self.defaults["weight_decay"])
            group.setdefault("decay_style", self.defaults.get("decay_style") or rule.decay)
        return group

    def _check_shared(self, group: Group) -> None:
        """What acts on, or keeps a number for, the whole optimizer is the same in all groups."""
        rule = find_rule(group["rule"])
        if any(s.scope == "optimizer" for s in rule.scalars):
            for other in self.param_groups:
                for h in rule.hypers if find_rule(other["rule"]) is rule else ():
                    key = hyper_key(h, "")
                    if number(group, key) != number(other, key):
                        raise ArgumentError(
                            f"{rule.name} keeps numbers for all groups together, so that {key} must be alike "
                            f"in all of them; group {len(self.param_groups)} has {number(group, key)!r} and "
                            f"another {number(other, key)!r}"
                        )
        for other in self.param_groups[:1]:
            for name in {*group["options"], *other["options"]}:
                spec = find_option(name)
                keys = [hyper_key(h, name) for h in spec.hypers]
                if spec.scope == "optimizer" and (
                    (name in group["options"]) != (name in other["options"])
                    or any(group[k] != other[k] for k in keys)
                ):
                    raise ArgumentError(
                        f"option {name} acts on all gradients together, so that all groups must have "
                        f"it alike; group {len(self.param_groups)} differs from group 0"
                    )

    # Steps ----------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with the gradients that are there.

        Args:
            closure: Evaluates the model again and returns the loss; called once, with gradients enabled.

        Returns:
            What the closure returned.

        Raises:
            StepError: The step cannot be taken; parameters, state and counts are as they were.
        """
        self.check_training("step()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])), step_threads():
            self._advance()
        return loss

    def _advance(self) -> None:
        plans = self._plans or Plans()
        pending: Pending = []
        self._plan = self._plans = None  # whatever interrupts a step, the next looks at all anew
        plan = plans.find(self.param_groups, self.state)
        if plan is None:
            title = type(self).__name__
            plan, pending = Preparation(self.param_groups, self.state, title).plan()
            plans.keep(plan, self.param_groups)
        plan.ready(self.param_groups)
        for p, entries in pending:
            self.state[p].update(entries)
        plan.settle(self.state)
        plan.run(self.param_groups)
        self._plan, self._plans = plan, plans

    # State ----------------------------------------------------------------------------------------

    def _begin_state(self) -> None:
        """Make the rule's own state of every parameter now, as torch does for some, not in its first step."""
        for i, group in enumerate(self.param_groups):
            resolved = resolve(group)
            for j, p in enumerate(group["params"]):
                if p.device.type == "meta":
                    continue  # its first step makes it, once there is storage
                wanted = wanted_slots(resolved, resolved.setting(p, frozenset()), group, p)
                own = {s.name: wanted[s.name] for s in resolved.rule.slots if s.name in wanted}
                found = slots_of(p, p, {}, own, list(own), parameter_name(group, i, j)).slots
                made = {
                    key: make_slots([p], [x], dense=False)[0]
                    for key, x in found.items()
                    if isinstance(x, Missing)
                }
                self.state[p] |= {"step": torch.zeros((), dtype=scalar_dtype()), **made}

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, as torch does.

        Raises:
            StepError: The parameters hold Lookahead's slow weights, which nobody could go on from.
        """
        self.check_fast("state_dict()")
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self.check_fast("a copy")
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = self._plans = None
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    def load_state_dict(self, state_dict: dict[str, Any], *, strict: bool = True) -> None:
        """Load a checkpoint of this optimizer, or of torch's of the same algorithm; everything is copied.

        Where both know their parameters' names (`model.named_parameters()` at construction) they are matched
        by name, whatever their order and groups; else by position, as in torch. Numbers of the groups
        follow the checkpoint; rule, options and storage are the constructor's.

        Args:
            state_dict: What `state_dict()` returned.
            strict: Refuse a checkpoint with other names, another rule or other options, or of another
                algorithm's state. Without, what matches is taken, this optimizer's rule and options stay,
                and what is missing begins anew.

        Raises:
            CheckpointError: It has other names, options or shapes, or is another rule's; nothing was changed.
            ValueError: It has other groups.
        """
        self.check_training("load_state_dict()")
        checked: dict[str, Any] = {}

        def check(_: Any, given: dict[str, Any]) -> dict[str, Any]:
            """After the user's hooks: look at everything, and keep torch from casting the state."""
            saved = given.get("param_groups")
            if saved is None or "state" not in given:
                raise CheckpointError(
                    f"this is no optimizer's state_dict: it has {', '.join(map(repr, list(given)[:3]))}, "
                    "...; it needs 'state' and 'param_groups'"
                )
            given = by_name(self.param_groups, given, strict=strict)
            saved = given["param_groups"]
            if [len(g["params"]) for g in saved] != [len(g["params"]) for g in self.param_groups]:
                return given  # torch says it, in its words
            check_groups(self.param_groups, given, strict=strict)
            # The entries come first: they tell another algorithm's checkpoint from one with bad numbers.
            checked["state"] = all_loaded(self.param_groups, given, strict=strict)
            if strict:
                check_lengths(self.param_groups, given)
                check_keys(self.param_groups, given)
            groups = [merged_group(own, g) for own, g in zip(self.param_groups, saved, strict=True)]
            for i, group in enumerate(groups):
                check_numbers(type(self).__name__, group, f", group {i} of the checkpoint")
            return {**given, "state": {}, "param_groups": groups}

        def fill(_: Any) -> None:
            """Before the user's hooks: what torch would have loaded."""
            self.state.update(checked["state"])

        handles = (
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(fill, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    # Looking at it --------------------------------------------------------------------------------

    def explain(self, *, source: bool = False) -> str:
        """Which backend each bucket of tensors ran on in the last step, and why.

        Args:
            source: Whether to add the traced graph and the text of the kernel.
        """
        return inspection.explain(self._plan, source=source)

    def summary(self) -> str:
        """The defaults, the groups, and what the state holds, with bytes."""
        return inspection.summary(self)

    @property
    def skipped_steps(self) -> int:
        """How many steps a gate (`SkipNonFinite`) has held back."""
        counts = [
            float(s[key]) for s in self.state.values() for key in s if key.endswith("_skipped")
        ]
        return int(max(counts, default=0.0))


def _first_name(group: Group) -> str:
    params = group.get("params")
    first = params[0] if isinstance(params, (list, tuple)) and params else None
    return f" ({first[0]!r})" if isinstance(first, tuple) and isinstance(first[0], str) else ""
