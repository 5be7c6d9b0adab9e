"""What an optimizer is, does and costs: read from its declaration, its signature, and trials of it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch

from thalweg.catalogue import docstrings
from thalweg.catalogue.names import CLASSES, option_classes, read
from thalweg.catalogue.trial import Trial
from thalweg.engine.arguments import FLAGS, LR
from thalweg.engine.groups import Resolved, number
from thalweg.engine.rule import Hyper, nonzero
from thalweg.engine.trace import hyper_key
from thalweg.errors import ArgumentTypeError, suggest


@dataclass(frozen=True)
class Argument:
    """A number or a choice that steers an optimizer.

    Args:
        name: As it is passed; "betas[0]" for one of several numbers.
        default: Without it; `inspect.Parameter.empty` where it must be passed.
        range: The allowed values; empty where nothing is declared.
        meaning: What the docstring says.
        passed: False for what only the group holds.
    """

    name: str
    default: Any
    range: str
    meaning: str
    passed: bool = True

    @property
    def shown(self) -> str:
        """The default as text."""
        must_be = self.default is inspect.Parameter.empty
        return "must be passed" if must_be else repr(self.default)

    def __str__(self) -> str:
        return f"{self.name} = {self.shown}{f', {self.range}' if self.range else ''}"


@dataclass(frozen=True)
class Variant:
    """What a setting changes: when, the formula then, and the state.

    Args:
        when: "amsgrad=True"; empty for the default.
        formula: The traced update, one assignment a line.
        state: Bytes per float32 element by key.
    """

    when: str
    formula: str
    state: dict[str, float]

    @property
    def state_bytes(self) -> float:
        """Bytes per float32 element in all."""
        return sum(self.state.values())


@dataclass(frozen=True)
class Capabilities:
    """What an optimizer takes and needs, each tried out.

    Args:
        sparse: It takes sparse gradients.
        sparse_only: It takes nothing else.
        complex: It takes complex parameters.
        closure: Its `step` needs a closure.
        matrix_only: It refuses parameters of one dimension.
        foreach, fused, maximize, capturable, differentiable: It has torch's argument of that name.
    """

    sparse: bool
    sparse_only: bool
    complex: bool
    closure: bool
    matrix_only: bool
    foreach: bool
    fused: bool
    maximize: bool
    capturable: bool
    differentiable: bool

    def __str__(self) -> str:
        held = [f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name)]
        return ", ".join(held) or "none"


@dataclass(frozen=True)
class OptimizerInfo:
    """All about one optimizer.

    Args:
        name: As `create_optimizer` takes it.
        cls: The class.
        summary: One sentence.
        arguments: What can be passed, and what else its groups hold.
        variants: The formula and the state: by default first, then what settings change.
        capabilities: What it takes and needs.
        options: What can be composed around it, by the names that strings have for them.
        paper: Where it comes from.
        differs: Where it departs from that.
        advice: How its authors set its numbers, for who comes from AdamW.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    summary: str
    arguments: tuple[Argument, ...]
    variants: tuple[Variant, ...]
    capabilities: Capabilities
    options: tuple[str, ...]
    paper: str
    differs: str
    advice: str

    @property
    def state_bytes(self) -> float:
        """Bytes of state per float32 parameter element, by default."""
        return self.variants[0].state_bytes

    @property
    def formula(self) -> str:
        """The update as lines of text, with what settings change under lines that say when."""
        return "\n\n".join(
            f"with {v.when}:\n{v.formula}" if v.when else v.formula for v in self.variants
        )

    def __str__(self) -> str:
        state = self.variants[0].state
        kept = f" ({', '.join(state)})" if state else ""
        lines = [f"{self.name}: {self.summary}", "", self.formula, ""]
        lines += map(str, self.arguments)
        lines += ["", f"state: {self.state_bytes:.4g} bytes per float32 parameter{kept}"]
        lines += [f"takes: {self.capabilities}", f"options: {', '.join(self.options) or 'none'}"]
        lines += [f"paper: {self.paper}"]
        lines += [f"from AdamW: {self.advice}"] if self.advice else []
        return "\n".join(lines)


def list_optimizers(pattern: str = "*", **capabilities: bool) -> list[str]:
    """The names that `create_optimizer` takes, sorted.

    Args:
        pattern: Any case; * and ? as in file names. Without them: what contains it.
        **capabilities: What they must have, or with False must not have: `sparse=True`.
            The names are those of `Capabilities`.

    Raises:
        TypeError: An unknown capability (with a suggestion), or one that is neither True nor False.

    Example:
        >>> import thalweg
        >>> thalweg.list_optimizers("r?dam")
        ['radam']
        >>> "sgd" in thalweg.list_optimizers(sparse=True)
        True
    """
    known = [f.name for f in fields(Capabilities)]
    for name, wanted in capabilities.items():
        if name not in known:
            raise ArgumentTypeError(
                f"list_optimizers got an unknown capability {name!r}.{suggest(name, known)} "
                f"Known: {', '.join(known)}."
            )
        if not isinstance(wanted, bool):
            raise ArgumentTypeError(f"{name}={wanted!r}; it is True or False")
    if not isinstance(pattern, str):
        raise ArgumentTypeError(f"pattern={pattern!r}; it is a string, such as '*adam*'")
    glob = pattern.lower() if any(c in pattern for c in "*?[") else f"*{pattern.lower()}*"
    return [
        name
        for name in sorted(CLASSES)
        if fnmatch.fnmatchcase(name, glob) and _has(name, capabilities)
    ]


def _has(name: str, wanted: dict[str, bool]) -> bool:
    if not wanted:
        return True
    found = _capabilities(name)
    return all(getattr(found, key) is value for key, value in wanted.items())


def optimizer_info(name: str) -> OptimizerInfo:
    """What an optimizer is, does and costs.

    Everything is derived: the formula from the traced update, arguments from the signature and the
    declared numbers, bytes and capabilities from trial steps on a small matrix. Nothing of a result
    depends on the machine.

    Args:
        name: An optimizer, any case; with arguments and options the composition is described.

    Raises:
        ValueError: An unknown name (with a suggestion).

    Example:
        >>> import thalweg
        >>> lion = thalweg.optimizer_info("lion")
        >>> print(lion.formula.splitlines()[1])
        exp_avg = exp_avg + (1 - beta2) * (g - exp_avg)
        >>> lion.state_bytes
        4.0
        >>> thalweg.optimizer_info("lion + lookahead").state_bytes
        8.0
    """
    return _info(" ".join(name.split()) if isinstance(name, str) else name)


@lru_cache(maxsize=256)
def _info(text: str) -> OptimizerInfo:
    named = read(text)
    trial = Trial(text)
    if "weight_decay" in trial.accepts:  # so that formulas show what it does
        trial = Trial(text, {"weight_decay": 0.5})
    resolved = trial.resolved
    return OptimizerInfo(
        name=text if named.arguments or named.options else named.name,
        cls=named.cls,
        summary=docstrings.first_sentence(named.cls),
        arguments=tuple(_arguments(trial)),
        variants=tuple(_variants(trial)),
        capabilities=_capabilities(text),
        options=_options(trial),
        paper=docstrings.one_line(named.cls, "Reference"),
        differs=docstrings.one_line(named.cls, "Differs"),
        advice=vars(named.cls).get("advice", resolved.rule.advice if resolved is not None else ""),
    )


@lru_cache(maxsize=256)
def _capabilities(text: str) -> Capabilities:
    plain = Trial(text)
    dense, sparse = plain.takes(), Trial(text).takes(sparse=True)
    flags = {
        flag: flag in plain.accepts and Trial(text, {flag: True}).is_possible() for flag in FLAGS
    }
    return Capabilities(
        sparse=sparse,
        sparse_only=sparse and not dense,
        complex=Trial(text, dtype=torch.complex64).takes(sparse=not dense),
        closure=plain.needs_closure,
        matrix_only=not Trial(text, shape=(8,)).takes(sparse=not dense),
        **flags,
    )


def _options(trial: Trial) -> tuple[str, ...]:
    """The options that it has arguments for, and that neither it nor an option of its own refuses."""
    resolved = trial.resolved
    if resolved is None or "options" not in trial.accepts:
        return ()
    there = {spec.name: spec for spec in resolved.specs}
    found = []
    for name, cls in sorted(option_classes().items()):
        spec = cls.spec
        reachable = {h.at for h in spec.hypers if h.at and not h.derived} <= trial.accepts
        clash = any(spec.name in s.excludes or s.name in spec.excludes for s in there.values())
        if reachable and not clash and spec.name not in resolved.rule.refuses:
            found.append(name)
    return tuple(found)


def _arguments(trial: Trial) -> Iterator[Argument]:
    """The signature's arguments with what is declared of them, then numbers that only the group holds."""
    cls = type(trial.optimizer)
    said = docstrings.meanings(cls)
    declared = _declared(trial)
    switches = trial.resolved.rule.switches if trial.resolved else ()
    choices = {s.name: s.range for s in switches if not s.is_derived}
    choices |= {s.name: s.range for s in getattr(cls, "choices", ())}
    for h in getattr(cls, "numbers", ()):  # what no rule declares
        of_key = declared.setdefault(h.place()[0], [])
        if all(key != hyper_key(h, "") for key, _, _ in of_key):
            of_key.append((hyper_key(h, ""), h, h.default))
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in ("params", "options", *FLAGS):
            continue
        hypers = declared.pop(name, [])
        if not hypers:
            choice = (
                "True or False" if isinstance(parameter.default, bool) else choices.get(name, "")
            )
            yield Argument(name, parameter.default, choice, said.get(name, ""))
        for key, hyper, _ in hypers:
            index = hyper.place()[1]
            default = parameter.default if index is None else parameter.default[index]
            shown = name if index is None else key
            yield Argument(shown, default, hyper.range, said.get(name, ""))
    for rest in declared.values():
        for key, hyper, value in rest:
            yield Argument(key, value, hyper.range, "", passed=False)


def _declared(trial: Trial) -> dict[str, list[tuple[str, Hyper, Any]]]:
    """The declared numbers by the argument that they come from: key in the group, declaration, value."""
    found: dict[str, list[tuple[str, Hyper, Any]]] = {}
    if trial.resolved is None:
        return found
    trials = [trial, replace(trial, shape=(8,))] if _of_vectors(trial) else [trial]
    taken: set[str] = set()
    for each in trials:
        resolved, group = each.resolved, each.optimizer.param_groups[0]
        assert resolved is not None
        for label, owner in resolved.labelled():
            for hyper in (h for h in (*owner.hypers, *([] if label else [LR])) if not h.derived):
                key = hyper_key(hyper, label)
                bare = hyper.name if hyper.name in trial.accepts else hyper.place(label)[0]
                if bare not in taken:
                    found.setdefault(bare, []).append((key, hyper, number(group, key)))
        taken |= set(found) | {s.name for s in resolved.rule.switches}
    return found


def _variants(trial: Trial) -> Iterator[Variant]:
    """The default, and every combination of settings that changes the formula."""
    seen: set[str] = set()
    for when, changed in _settings(trial):
        if not changed.is_possible():
            continue
        text = changed.formula() or docstrings.sections(type(trial.optimizer)).get("Formula", "")
        if text not in seen:
            seen.add(text)
            yield Variant(when, text, changed.state())


def _settings(trial: Trial) -> Iterator[tuple[str, Trial]]:
    """The default; the rule's switches, one by one and together; and tensors of fewer dimensions."""
    yield "", trial
    resolved = trial.resolved
    if resolved is None:
        return
    toggles: list[tuple[str, dict[str, Any]]] = []
    for switch in resolved.rule.switches:
        if isinstance(switch.read, nonzero):
            toggles.append((str(switch.read), {switch.read.key: 0.5}))
        elif not switch.is_derived and isinstance(switch.default, bool):
            flipped = not switch.default
            toggles.append((f"{switch.name}={flipped}", {switch.name: flipped}))
    toggles = [t for t in toggles if set(t[1]) <= trial.accepts]
    for size in range(1, len(toggles) + 1):
        for chosen in combinations(toggles, size):
            arguments = {k: v for _, values in chosen for k, v in values.items()}
            when = ", ".join(when for when, _ in chosen)
            yield when, replace(trial, arguments={**trial.arguments, **arguments})
    for least in sorted({least for label, _, least in resolved.by_ndim if not label}):
        few = (8,) * (least - 1)
        yield f"tensors of fewer than {least} dimensions", replace(trial, shape=few)
    if _of_vectors(trial) is not None:
        yield "tensors of fewer than 2 dimensions", replace(trial, shape=(8,))


def _of_vectors(trial: Trial) -> Resolved | None:
    """The rule that vectors have, where it is another one."""
    vector = replace(trial, shape=(8,))
    found = vector.resolved if vector.is_possible() else None
    here = trial.resolved
    return found if found and here and found.rule is not here.rule else None
