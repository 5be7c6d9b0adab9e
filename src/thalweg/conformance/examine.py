"""Running the checks, each for itself: none sees what another left behind."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch.optim import Optimizer

from thalweg.conformance.check import Check, Failed, NotApplicable, chosen, declared, expect
from thalweg.conformance.named import as_factory, named_factory
from thalweg.conformance.report import FAIL, NOT_APPLICABLE, PASS, Outcome, Report
from thalweg.conformance.subject import Factory, Subject
from thalweg.engine.optimizer import Optimizer as RuleOptimizer
from thalweg.engine.rule import Rule, find_rule
from thalweg.errors import ArgumentError
from thalweg.wrappers.protocol import not_set_up


def check_optimizer(
    factory: Factory | Rule | str,
    *,
    capabilities: Iterable[str] = (),
    checks: Iterable[str] | None = None,
    title: str | None = None,
) -> Report:
    """Examine an optimizer, anybody's: does it behave as users of `torch.optim` may rely on?

    Every check walks small parameters on the CPU for a few steps; all of them take a second or two, more
    where one hangs (that one is killed after five seconds and counts as failed).

    Args:
        factory: factory(params, **overrides) returns a `torch.optim.Optimizer`; overrides are arguments
            of the optimizer, such as lr. A class is a factory if it needs nothing but parameters. Or a
            rule, for `thalweg.Optimizer(params, rule=...)`; or a name as `thalweg check` takes it:
            "lion + cautious", "package.module:my_rule".
        capabilities: What its author declares (`thalweg.conformance.CAPABILITIES`); the only reason,
            beside what its own groups and state show, for which a check is not applicable. What a rule
            declares counts: `sparse`, `refuses_complex`, `refuses_dense`, numbers of the whole optimizer.
        checks: Names of checks; by default all.
        title: What the report calls it; by default its class.

    Returns:
        What passed, what failed with what was expected and got, and what was not applicable with why.

    Raises:
        ArgumentError: An unknown check, capability or name, or a factory that makes no optimizer.

    Example:
        >>> import torch
        >>> from thalweg.conformance import check_optimizer
        >>> report = check_optimizer(torch.optim.SGD, checks=["resume", "closure-once"])
        >>> print(report)
        torch.optim.SGD: 2 of 2 pass, 0 not applicable
    """
    subject = Subject(_factory(factory), declared(capabilities))
    wanted = chosen(checks)
    built = _built(subject)
    subject = replace(subject, declared=subject.declared | _said_by_rule(built))
    found = _named(built) if title is None else title
    start = time.perf_counter()
    first_move = cache(subject.first_move)
    outcomes = [_examine(c, subject, first_move) for c in wanted]
    return Report(found, tuple(sorted(subject.declared)), outcomes, time.perf_counter() - start)


def _factory(given: Factory | Rule | str) -> Factory:
    return named_factory(given) if isinstance(given, str) else as_factory(given, repr(given))


def _built(subject: Subject) -> Optimizer:
    """Build it once: what cannot be built is no failure of a check but a wrong factory."""
    try:
        optimizer = subject.make(subject.parameters())
    except Exception as e:
        raise ArgumentError(
            f"the factory could not build an optimizer over three parameters: {type(e).__name__}: {e}; "
            "it is called as factory(params); give it a function that fills in the rest, and declare "
            "matrix-only, sparse-only or closure-required where that is so; an update rule is a function "
            "that @thalweg.rule decorates"
        ) from e
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            f"the factory returned a {type(optimizer).__name__}, which is no torch.optim.Optimizer: "
            "schedulers, scalers and trainers refuse or ignore it; an update rule is a function that "
            "@thalweg.rule decorates"
        )
    if complaint := not_set_up(optimizer):
        raise ArgumentError(f"the factory returned a {type(optimizer).__name__}: {complaint}")
    return optimizer


def _said_by_rule(optimizer: Optimizer) -> frozenset[str]:
    """What the rule of a `thalweg.Optimizer` declares; a class of its own says more than its rule."""
    if type(optimizer) is not RuleOptimizer:
        return frozenset()
    rule = find_rule(optimizer.param_groups[0]["rule"])
    said = {
        "sparse": bool(rule.sparse) and not rule.refuses_dense,
        "sparse-only": bool(rule.refuses_dense),
        "real-only": bool(rule.refuses_complex),
        "coupled": any(s.scope == "optimizer" for s in rule.scalars),
    }
    return frozenset(name for name, is_so in said.items() if is_so)


def _named(optimizer: Optimizer) -> str:
    cls = type(optimizer)
    if cls is RuleOptimizer:
        return f"thalweg.Optimizer(rule={optimizer.param_groups[0]['rule']})"
    package = cls.__module__.split(".")
    public = ".".join(package[:2] if package[0] == "torch" else package[:1])
    return f"{public}.{cls.__name__}"


def _examine(check: Check, subject: Subject, first_move: Callable[[], int | None]) -> Outcome:
    subject = Subject(subject.factory, subject.declared)
    excuse = check.excused(subject.declared)
    if excuse is not None:
        return Outcome(check.name, check.reason, NOT_APPLICABLE, excuse)
    status, message = PASS, ""
    with _apart():
        try:
            check.run(subject)
            _expect_moves(subject, first_move)
        except NotApplicable as e:
            status, message = NOT_APPLICABLE, str(e)
        except Failed as e:
            status, message = FAIL, str(e)
        except Exception as e:
            status, message = FAIL, f"expected no exception; got {type(e).__name__}: {_short(e)}"
    return Outcome(check.name, check.reason, status, message)


def _expect_moves(subject: Subject, first_move: Callable[[], int | None]) -> None:
    """Answer no if all optimizers of the check stood still, one of them longer than it does by itself.

    Two runs that move nothing agree to the bit, whatever a checkpoint or a copy lost; where only one of
    them moves, the comparison sees it.
    """
    walks = subject.walks.values()
    if not walks or any(walk.moved for walk in walks):
        return
    first, steps = first_move(), max(walk.steps for walk in walks)
    got = f"none moved in {steps} with gradients that are not zero"
    expect(first is not None and steps < first, "steps that move a weight", got)


def _short(e: Exception) -> str:
    line = " ".join(str(e).split())
    return line if len(line) <= 200 else f"{line[:197]}..."


@contextmanager
def _apart() -> Iterator[None]:
    """Keep a check's random numbers, default dtype, threads, gradients mode and warnings to itself."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
