"""An elementwise optimizer is few lines, and its constructor is explicit to who inspects it."""

from __future__ import annotations

import ast
import inspect
from typing import get_type_hints

import pytest
import torch

import thalweg
from line_counts import FAMILY, all_counts, line_counts
from thalweg.engine.arguments import Flags
from thalweg.errors import DeclarationError
from thalweg.ops import sign

LIMIT = 40
NOT_ELEMENTWISE = {"LBFGS", "Muon", "MuonAdamW", "Prodigy", "Adafactor"}
"""A line search, whole matrices, sums over all tensors, factored state."""
LONGER = {
    "Adam": 48,  # of which 17 are torch's sentences about arguments that are tensors
    "RAdamScheduleFree": 48,  # a rule, five numbers of an option, and the authors' betas
}
COUNTS = all_counts()


@pytest.mark.parametrize("name", sorted(set(COUNTS) - NOT_ELEMENTWISE))
def test_an_elementwise_optimizer_takes_few_lines(name):
    assert COUNTS[name] <= LONGER.get(name, LIMIT)


def test_the_formatter_lays_the_family_out():
    for path in FAMILY.glob("*.py"):
        assert "fmt:" not in path.read_text(), path.name


def test_what_is_counted(tmp_path):
    text = '''
"""A family."""
import torch

WORDS = (
    "counted",
)


def helper():
    """Not counted."""

    return WORDS


def unused():
    pass


@rule(
    slots=(),
)
def one(g):
    """Not counted, in
    two lines."""
    return helper()


class One(Optimizer):
    """Not counted."""

    def __init__(self):
        super().__init__(rule=one)
'''
    path = tmp_path / "family.py"
    path.write_text(text)
    assert line_counts(path) == {"One": 3 + 2 + 5 + 3}


def _functions():
    for path in FAMILY.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                decorators = [getattr(d, "func", d) for d in node.decorator_list]
                yield path.name, node, "rule" in [getattr(d, "id", "") for d in decorators]


def test_all_but_rules_is_annotated():
    """mypy is told not to ask for annotations in the family, since a rule's could only be `Any`."""
    assert sum(is_rule for *_, is_rule in _functions()) > 20
    for file, node, is_rule in _functions():
        arguments = [*node.args.args, *node.args.kwonlyargs]
        typed = [a for a in arguments if a.annotation is not None]
        wanted = [] if is_rule else [a for a in arguments if a.arg not in ("self", "_")]
        assert [a.arg for a in typed if a.arg not in ("self", "_")] == [a.arg for a in wanted], file
        assert (node.returns is None) == is_rule, (file, node.name)


# --- constructors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_argument_is_a_typed_keyword_of_its_own(name):
    cls = getattr(thalweg, name)
    hints = get_type_hints(cls.__init__)
    for p in inspect.signature(cls).parameters.values():
        assert p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY), p
        assert p.name in hints
    assert "flags" not in hints


def test_flags_are_as_the_optimizers():
    """One place says what their defaults are; a class's signature tells them."""
    base = inspect.signature(thalweg.Optimizer).parameters
    told = inspect.signature(thalweg.Lion).parameters
    for name in Flags.__annotations__:
        assert told[name].default == base[name].default
        assert told[name].kind is inspect.Parameter.KEYWORD_ONLY


class Passing(thalweg.Adan):
    def __init__(self, params, **more):
        super().__init__(params, **more)


@pytest.mark.parametrize("wrong", ["forech", "own", "rule", "beta1"])
@pytest.mark.parametrize("cls", [thalweg.Adan, Passing])
def test_what_is_no_argument_is_refused_through_a_subclass_too(cls, wrong):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{wrong}'"):
        cls([torch.nn.Parameter(torch.ones(1))], **{wrong: None})


def test_flags_pass_through_a_subclass():
    group = Passing([torch.nn.Parameter(torch.ones(1))], maximize=True, no_prox=True).param_groups[
        0
    ]
    assert group["maximize"]
    assert group["decay_style"] == "decoupled"


# --- declarations ---------------------------------------------------------------------------------


def test_a_rule_may_ask_for_several_numbers_by_their_key():
    hypers = tuple(thalweg.Hyper(f"share{i}", 0.25 * i, at=f"shares[{i}]") for i in range(3))

    @thalweg.rule(hypers=hypers, name="test_shares")
    def shares_rule(g, *, shares):
        first, second, third = shares
        return g * (first + 2.0 * second + 4.0 * third)

    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = thalweg.Optimizer([p], lr=1.0, rule=shares_rule)
    optimizer.param_groups[0]["shares"] = (1.0, 0.25, 0.5)
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == -3.5


def test_a_rule_that_places_decay_itself_is_given_it():
    @thalweg.rule(decay="own", name="test_own")
    def own_rule(g, *, p, weight_decay, decays):
        return sign(g) + weight_decay * p if decays else sign(g)

    for wd, moved in ((0.0, -1.0), (0.5, -2.0)):
        p = torch.nn.Parameter(torch.full((1,), 2.0))
        optimizer = thalweg.Optimizer([p], lr=1.0, rule=own_rule, weight_decay=wd)
        p.grad = torch.ones(1)
        optimizer.step()
        assert p.item() == 2.0 + moved

    with pytest.raises(DeclarationError, match="'decays' is declared but not asked for"):

        @thalweg.rule(decay="own", name="test_own_unused")
        def unused_rule(g, *, weight_decay):
            return g * weight_decay
