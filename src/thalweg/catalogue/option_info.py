"""What an option is, does and costs: read from its declaration, its signature, and trials of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache

from thalweg.catalogue import docstrings
from thalweg.catalogue.info import Argument, list_optimizers
from thalweg.catalogue.names import (
    CLASSES,
    as_written,
    choices,
    known_option,
    option_class,
    option_classes,
    option_named,
    parse,
    wrapper_beside,
)
from thalweg.catalogue.trial import Trial
from thalweg.engine.groups import graph_of
from thalweg.engine.option import STATIONS, Option, OptionSpec, Station, stages_of
from thalweg.engine.rule import Hyper
from thalweg.errors import ArgumentError, ArgumentTypeError

BASE = "sgd"
"""The optimizer that options are tried around: its update is one line, and it keeps nothing."""

MAPS: dict[Station, str] = {
    "gate": "all gradients -> whether there is a step",
    "gradient": "g -> g, before the rule",
    "direction": "u -> u, after the rule",
    "apply": "p, step -> p; exactly one",
    "after": "p -> p",
}
"""What an option does at each station, in the order in which they are passed."""


@dataclass(frozen=True)
class OptionInfo:
    """All about one option.

    Args:
        name: As strings have it.
        cls: The class in `thalweg.options`.
        summary: One sentence.
        written: How it is written behind an optimizer, with its numbers.
        stations: Where it acts, in order; empty where the engine itself reads it.
        arguments: What can be passed, with ranges and defaults.
        keys: What it leaves in a group, by argument where they have one: what a schedule drives.
        state: Bytes per float32 element by key, beyond what the optimizer keeps.
        numbers: Keys of single numbers that it keeps, per parameter or in the group.
        passes: Sweeps over memory beyond those of the optimizer alone, for a matrix.
        formula: The traced update of plain SGD with it.
        excludes: Options that cannot stand beside it, by the names that strings have for them.
        refused_by: Optimizers that it does not go around.
        shared: Whether all groups must have it alike.
        paper: Where it comes from; empty where it has none.
        differs: Where it departs from that.
        wrapper: The wrapper of the same name, as it is called; empty where there is none.
    """

    name: str
    cls: type[Option]
    summary: str
    written: str
    stations: tuple[Station, ...]
    arguments: tuple[Argument, ...]
    keys: tuple[str, ...]
    state: dict[str, float]
    numbers: tuple[str, ...]
    passes: int
    formula: str
    excludes: tuple[str, ...]
    refused_by: tuple[str, ...]
    shared: bool
    paper: str
    differs: str
    wrapper: str

    @property
    def state_bytes(self) -> float:
        """Bytes per float32 element in all."""
        return sum(self.state.values())

    def facts(self) -> list[tuple[str, str]]:
        """Everything but the formula and the arguments, as titles and texts."""
        kept = ", ".join([*self.state, *self.numbers]) or "nothing"
        found = [
            ("written", f'"adamw + {self.written}"'),
            ("acts at", "; ".join(f"{s} ({MAPS[s]})" for s in self.stations) or "storage of state"),
            ("keys of the group", ", ".join(self.keys)),
            ("bytes of state per float32 parameter", f"{self.state_bytes:.3g} ({kept})"),
            ("further passes over memory", str(self.passes)),
            ("excludes", ", ".join(self.excludes) or "none"),
            ("refused by", ", ".join(self.refused_by)),
            ("scope", "alike in all groups" if self.shared else "each group its own"),
            ("paper", self.paper),
            ("differs", self.differs),
            ("wrapper", self.wrapper and f"{self.wrapper} goes around any torch.optim.Optimizer"),
        ]
        return [(title, text) for title, text in found if text]

    def __str__(self) -> str:
        numbers = [*map(str, self.arguments), ""] if self.arguments else []
        facts = [f"{title}: {text}" for title, text in self.facts()]
        return "\n".join([f"{self.name}: {self.summary}", "", self.formula, "", *numbers, *facts])


def option_info(name: str) -> OptionInfo:
    """What an option is, does and costs.

    Everything is derived: arguments from the signature and the declared numbers; the formula, bytes and
    passes from trials around SGD. Nothing of a result depends on the machine.

    Args:
        name: An option, any case; with arguments it is described with them.

    Raises:
        ValueError: An unknown name (with a suggestion).

    Example:
        >>> import thalweg
        >>> lookahead = thalweg.option_info("lookahead")
        >>> lookahead.written, lookahead.state_bytes, lookahead.passes
        ('lookahead(k=6, alpha=0.5)', 4.0, 0)
        >>> thalweg.option_info("clip_norm").passes
        1
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the option's name is {name!r}; it is a string, as 'lookahead'")
    return _info(" ".join(name.split()))


def is_option(text: object) -> bool:
    """Whether a text names an option, and no optimizer: for who takes either."""
    try:
        parts = parse(text) if isinstance(text, str) else []
    except ArgumentError:
        return False
    name = parts[0][0] if len(parts) == 1 else ""
    return name not in CLASSES and known_option(name) is not None


def in_order(classes: dict[str, type[Option]]) -> dict[Station, tuple[str, ...]]:
    """The options of each station by name, in the order in which they act there."""
    names = {cls.spec.name: name for name, cls in classes.items()}
    specs = [cls.spec for cls in classes.values()]
    return {
        station: tuple(names[spec.name] for spec, _ in _stages(specs, station))
        for station in STATIONS
    }


def _stages(specs: list[OptionSpec], station: Station) -> list[tuple[OptionSpec, int]]:
    if station != "apply":
        return [(spec, stage.rank) for spec, stage in stages_of(specs, station)]
    found = [(s, stage.rank) for s in specs for stage in s.stages if stage.station == station]
    return sorted(found, key=lambda pair: (not pair[0].builtin, pair[0].name))


@lru_cache(maxsize=256)
def _info(text: str) -> OptionInfo:
    parts = parse(text)
    if len(parts) != 1:
        raise ArgumentError(f"{text!r} is a composition; name one option, as 'lookahead(k=6)'")
    ((head, values),) = parts
    cls = option_class(head)
    names = {c.spec.name: n for n, c in option_classes().items()}
    name, spec = names[cls.spec.name], cls.spec
    written = text if values else as_written(cls)
    trial = _around(written, spec)
    state = trial.state()
    single = [k for k in trial.optimizer.state[trial.parameter] if k not in state]
    single += [f"{spec.name}_{s.name}" for s in spec.scalars if s.is_shared]
    excluded = {
        o.name for o in (c.spec for c in option_classes().values()) if spec.name in o.excludes
    }
    return OptionInfo(
        name=name,
        cls=cls,
        summary=docstrings.first_sentence(cls),
        written=written,
        stations=tuple(s for s in STATIONS if any(x.station == s for x in spec.stages)),
        arguments=tuple(_arguments(cls)),
        keys=tuple(option_named(*parse(written)[0]).keys()),
        state=state,
        numbers=tuple(single),
        passes=_passes(trial) - _passes(Trial(BASE)),
        formula=trial.formula() or "",
        excludes=tuple(sorted(names.get(o, o) for o in {*spec.excludes, *excluded})),
        refused_by=tuple(n for n in list_optimizers() if _refuses(n, spec)),
        shared=spec.scope == "optimizer",
        paper=docstrings.one_line(cls, "Reference") or spec.paper,
        differs=docstrings.one_line(cls, "Differs"),
        wrapper=wrapper_beside(cls.__name__),
    )


def _around(written: str, spec: OptionSpec) -> Trial:
    """A trial of it, with decay where it has something to say about that."""
    decays = any(h.at == "weight_decay" for h in spec.hypers)
    return Trial(f"{BASE} + {written}", {"weight_decay": 0.5} if decays else {})


def _passes(trial: Trial) -> int:
    resolved = trial.resolved
    assert resolved is not None
    return len(graph_of(resolved, resolved.setting(trial.parameter, frozenset()))[1])


def _refuses(optimizer: str, spec: OptionSpec) -> bool:
    """Whether it takes no options at all, or its rule or an option of its own refuses this one."""
    trial = Trial(optimizer)
    if trial.resolved is None or "options" not in trial.accepts:
        return True
    own = [s for s in trial.resolved.specs if s.name != spec.name]
    return spec.name in trial.resolved.rule.refuses or any(
        spec.name in s.excludes or s.name in spec.excludes for s in own
    )


def _arguments(cls: type[Option]) -> list[Argument]:
    said, declared = docstrings.meanings(cls), cls.spec.arguments()
    found = []
    for name, parameter in inspect.signature(cls).parameters.items():
        hyper = declared.get(name)
        words = ", ".join(map(repr, choices(cls, name)))
        choice = "True or False" if isinstance(parameter.default, bool) else words
        allowed = hyper.range if isinstance(hyper, Hyper) else choice
        found.append(Argument(name, parameter.default, allowed, said.get(name, "")))
    return found
