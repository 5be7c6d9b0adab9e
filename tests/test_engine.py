"""The engine from inside: tracing, lowering, passes, sums, the C text."""

from __future__ import annotations

import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thalweg
from cases import (
    BACKENDS,
    OPTIONS,
    RULES,
    assert_same_bits,
    differing,
    everything,
    gradients,
    parameters,
    run,
)
from thalweg import Hyper, Optimizer, Scalar, Slot, Switch, rule
from thalweg.engine.backends import c_run, toolchain
from thalweg.engine.graph import Lane
from thalweg.engine.groups import graph_of, resolve
from thalweg.engine.sums import block_sums
from thalweg.ops import abs, count, lerp, max, mean, norm, sign, sqrt, where
from thalweg.options import Average, Lookahead

GOLDENS = Path(__file__).parent / "goldens"


def kinds_of(optimizer: Optimizer) -> list:
    params = [p for g in optimizer.param_groups for p in g["params"]]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [r.kind for r in optimizer._plan.runs]


GOLDEN = {
    "adamw": lambda p: thalweg.AdamW(p, weight_decay=0.1),
    "lion": lambda p: thalweg.Lion(p, weight_decay=0.1),
    "lion-lookahead": lambda p: thalweg.Lion(p, options=[Lookahead()]),
    "ranger": lambda p: thalweg.Ranger(p),
    "adamw-clip-norm": lambda p: thalweg.AdamW(p, options=[thalweg.options.ClipNorm(1.0)]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_generated_c_is_the_reviewed_text(name: str) -> None:
    """A change of these files is reviewed; THALWEG_UPDATE_GOLDENS=1 writes them."""
    (kind,) = kinds_of(GOLDEN[name]([torch.nn.Parameter(torch.ones(3, 3))]))
    text = f"/*\n{kind.graph.text}\n*/\n{c_run.source_of(kind)}"
    path = GOLDENS / f"{name}.c"
    if os.environ.get("THALWEG_UPDATE_GOLDENS"):
        path.write_text(text)
    assert path.read_text() == text


def test_the_text_holds_no_number_that_a_schedule_may_change() -> None:
    texts = set()
    for lr, betas, steps in ((1e-3, (0.9, 0.99), 1), (0.123, (0.8, 0.7), 3)):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = thalweg.Lion([p], lr=lr, betas=betas, weight_decay=lr)
        for _ in range(steps):
            p.grad = torch.ones(5)
            optimizer.step()
        texts |= {c_run.source_of(r.kind) for r in optimizer._plan.runs}
    assert len(texts) == 1


def packed_operations(text: str) -> int:
    """Arithmetic on whole vectors of floats: x86's packed single, aarch64's four lanes."""
    return len(
        re.findall(r"v?(?:add|sub|mul|div|sqrt)ps\s|f(?:add|sub|mul|div|sqrt)\s+v\d+\.4s", text)
    )


@pytest.mark.parametrize("rule_name", RULES)
def test_every_rule_is_vectorised(rule_name: str) -> None:
    cls, arguments = RULES[rule_name]
    (kind,) = kinds_of(cls([torch.nn.Parameter(torch.ones(3, 3))], **arguments))
    assert packed_operations(toolchain.assembly(c_run.source_of(kind))) > 0


@pytest.mark.parametrize("option_name", OPTIONS)
def test_every_option_is_vectorised(option_name: str) -> None:
    """On SGD, whose one loop is short: what the option adds may not undo it."""
    options = [OPTIONS[option_name]()]
    optimizer = thalweg.SGD([torch.nn.Parameter(torch.ones(3, 3))], momentum=0.9, options=options)
    (kind,) = kinds_of(optimizer)
    assert packed_operations(toolchain.assembly(c_run.source_of(kind))) > 0


def test_many_streams_are_vectorised() -> None:
    """Five stores: more pairs of pointers than gcc compares before it gives up."""
    p = torch.nn.Parameter(torch.ones(3, 3))
    (kind,) = kinds_of(thalweg.AdamW([p], amsgrad=True, options=[Average()]))
    assert packed_operations(toolchain.assembly(c_run.source_of(kind))) > 0


def test_the_check_for_vectors_notices_a_scalar_loop() -> None:
    text = "void pass_0(float *x) { for (int i = 1; i < 999; i++) x[i] = x[i - 1] * x[i]; }"
    assert packed_operations(toolchain.assembly(text)) == 0


def test_a_division_by_a_scalar_becomes_a_multiplication() -> None:
    @rule(hypers=(Hyper("scale", 2.0),), name="test_divides")
    def divides(g, *, scale):
        return (g / scale) / scale

    optimizer = Optimizer([torch.nn.Parameter(torch.ones(1))], rule=divides)
    resolved = resolve(optimizer.param_groups[0])
    graph, _ = graph_of(resolved, resolved.setting(torch.ones(1), frozenset()))
    elements = [
        n.op for n in graph.nodes if n.lane == Lane.ELEMENT and n.op not in ("input", "const")
    ]
    assert elements == ["mul", "sub"]  # one factor for 1/scale, 1/scale and lr together


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_lerp_is_exact_at_both_ends_and_on_equal_values(weight: float) -> None:
    a, b = torch.tensor([1e8, 3.0, -0.1]), torch.tensor([1.0, 3.0, 0.7])
    found = lerp(a, b, weight)
    torch.testing.assert_close(found, torch.lerp(a.double(), b.double(), weight).float())
    if weight in (0.0, 1.0):
        assert torch.equal(found, b if weight else a)
    assert torch.equal(lerp(a, a, weight), a)


def test_a_rule_runs_on_plain_tensors_and_numbers() -> None:
    from thalweg.optim.lion import lion

    u, m = lion(torch.tensor([2.0, -4.0]), torch.zeros(2), beta1=0.5, beta2=0.75)
    assert u.tolist() == [1.0, -1.0]
    assert m.tolist() == [0.5, -1.0]
    assert sqrt(4.0) == 2.0
    assert math.isnan(sqrt(-1.0))


@rule(slots=(Slot("m"),), hypers=(Hyper("beta", 0.9, low=0.0, high=1.0),), name="test_trust")
def trust(g, m, *, beta, p):
    """Reductions of every kind in one rule: per tensor, per row, over all, and a maximum."""
    m = lerp(m, g - mean(g, over="row"), 1 - beta)
    ratio = norm(p) / (norm(m) + 1e-3)
    largest = max(abs(m), over="tensor")
    share = norm(m, over="row") / (norm(g, over="all") + 1.0)
    return m * ratio / (1.0 + largest) + where(share > 0.05, share, 0.0) * sign(m), m


SIZES = ((70000,), (3, 9000), (5, 4), (1,), (2, 3, 4))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["fused", "foreach"])
def test_a_rule_may_reduce_over_rows_tensors_and_all(backend: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for flags in (BACKENDS["eager"], BACKENDS[backend]):
            params = parameters(shapes=SIZES)
            optimizer = Optimizer(params, lr=0.01, rule=trust, options=[Average(0.5)], **flags)
            run(optimizer, params, 3)
            found.append(everything(optimizer))
    finally:
        torch.set_num_threads(before)
    if backend == "fused":
        assert_same_bits(*found)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_reducing_rule_against_float64() -> None:
    params = parameters(torch.float64, SIZES)
    expected = [p.detach().clone() for p in params]
    grads = gradients(params, 0)
    everywhere = math.sqrt(sum(float((g**2).sum()) for g in grads))
    optimizer = Optimizer(params, lr=0.01, rule=trust)
    run(optimizer, params, 1)
    for p, old, g in zip(params, expected, grads, strict=True):
        rows = tuple(range(1, g.ndim))
        m = 0.1 * (g - (g.mean(rows, keepdim=True) if rows else g))
        share = ((m**2).sum(rows, keepdim=True) if rows else m**2).sqrt() / (everywhere + 1.0)
        share = torch.where(share > 0.05, share, 0.0)
        u = m * (old.norm() / (m.norm() + 1e-3)) / (1.0 + m.abs().max()) + share * m.sign()
        torch.testing.assert_close(p.detach(), old - 0.01 * u, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4096, 4097, 3 * 4096 + 5, 65536, 70000])
def test_block_sums_have_the_stated_order(n: int) -> None:
    """Once more, element by element: 16 lanes a block of 4096, halves, then neighbours."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    blocks = []
    for start in range(0, n, 4096):
        lanes = [0.0] * 16
        for i, v in enumerate(x[start : start + 4096].tolist()):
            lanes[i % 16] += v
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
        blocks += lanes
    while len(blocks) > 1:
        blocks += [0.0] * (len(blocks) % 2)
        blocks = [a + b for a, b in zip(blocks[0::2], blocks[1::2], strict=True)]
    assert float(block_sums(x)) == (blocks[0] if blocks else 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_passes_through_a_maximum(backend: str) -> None:
    @rule(name="test_largest")
    def largest(g):
        return g / max(abs(g))

    p = torch.nn.Parameter(torch.zeros(40))
    optimizer = Optimizer([p], lr=1.0, rule=largest, **BACKENDS[backend])
    p.grad = torch.arange(40.0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), -torch.arange(40.0) / 39.0)
    p.grad = p.grad.clone()
    p.grad[7] = math.nan
    optimizer.step()
    assert p.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_scalars_live_across_steps_and_are_saved(backend: str) -> None:
    @rule(scalars=(Scalar("power", 1.0),), hypers=(Hyper("base", 0.5),), name="test_power")
    def power_rule(g, *, power, base):
        return g * power, power * base

    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([p], lr=1.0, rule=power_rule, **BACKENDS[backend])
    for expected in (-1.0, -1.5, -1.75):
        p.grad = torch.ones(2)
        optimizer.step()
        assert p.tolist() == [expected, expected]
    assert float(optimizer.state[p]["power"]) == 0.125
    again = Optimizer([p], lr=1.0, rule=power_rule, **BACKENDS[backend])
    again.load_state_dict(optimizer.state_dict())
    p.grad = torch.ones(2)
    again.step()
    assert p.tolist() == [-1.875, -1.875]


def test_slots_begin_as_declared() -> None:
    @rule(
        slots=(
            Slot("a", init=2.0),
            Slot("b", init="param"),
            Slot("c", init="grad"),
            Slot("d", init="start"),
        ),
        hypers=(Hyper("start", 3.0),),
        name="test_inits",
    )
    def inits(g, a, b, c, d, *, start):
        return g * start * 0.0 + a + b + c + d, a, b, c, d

    p = torch.nn.Parameter(torch.tensor([10.0]))
    optimizer = Optimizer([p], lr=1.0, rule=inits, start=5.0)
    p.grad = torch.tensor([100.0])
    optimizer.step()
    assert p.item() == 10.0 - (2.0 + 10.0 + 100.0 + 5.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_old_values_are_read_before_any_is_written(backend: str) -> None:
    @rule(slots=(Slot("before"),), name="test_before")
    def keeps(g, before, *, p):
        return g + before * 0.0, p

    params = parameters(shapes=((5,), (600,)))
    old = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, lr=1.0, rule=keeps, **BACKENDS[backend])
    run(optimizer, params, 1)
    assert_same_bits([optimizer.state[p]["before"] for p in params], old)


def test_switches_choose_the_graph_and_counts_are_numbers() -> None:
    @rule(switches=(Switch("twice"),), name="test_switch")
    def switched(g, *, twice):
        return g * (2.0 if twice else 1.0) / count(g)

    p, q = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([{"params": [p]}, {"params": [q], "twice": True}], lr=1.0, rule=switched)
    p.grad, q.grad = torch.ones(4), torch.ones(2)
    optimizer.step()
    assert p.tolist() == [-0.25] * 4
    assert q.tolist() == [-1.0] * 2


def test_lions_rule_and_declaration_fit_in_twelve_lines() -> None:
    text = inspect.getsource(sys.modules["thalweg.optim.lion"])
    start = text.index("@rule(")
    lines = text[start : text.index("\n\n\n", start)].splitlines()
    assert len([x for x in lines if x.strip() and '"""' not in x]) <= 12


def test_importing_brings_nothing_beyond_torch() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import thalweg; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    brought = set(eval(out)) - set(sys.stdlib_module_names)
    assert brought == {"thalweg"}


def test_without_a_compiler_it_is_foreach_said_once_and_fused_raises(tmp_path: Path) -> None:
    code = """
import warnings, torch, thalweg
def step(**flags):
    p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
    o = thalweg.AdamW([p], **flags); o.step(); return o
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    first, second = step(), step()
print(len([w for w in said if "without fused kernels" in str(w.message)]), first.explain().splitlines()[0])
try:
    step(fused=True)
except RuntimeError as e:
    print(type(e).__name__, e)
"""
    env = {**os.environ, "THALWEG_CC": "/bin/false", "THALWEG_CACHE_DIR": str(tmp_path / "cache")}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout
    first, second = out.strip().splitlines()
    assert first.startswith("1 bucket 0: adam on foreach")
    assert "THALWEG_CC" in first
    assert second.startswith("BackendError `fused=True` cannot run here")


def test_what_the_compiler_cannot_do_runs_as_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(sources: object) -> None:
        raise thalweg.errors.CompilerError("no _Float16 here")

    monkeypatch.setattr(toolchain, "build_many", fails)
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = thalweg.AdamW([p])
    p.grad = torch.ones_like(p)
    with pytest.warns(UserWarning, match="no _Float16 here"):
        optimizer.step()
    assert "on foreach (no _Float16 here)" in optimizer.explain()
    strict = thalweg.AdamW([p], fused=True)
    with pytest.raises(thalweg.errors.CompilerError):
        strict.step()
    assert not strict.state


def test_the_comparer_of_bits_notices_one_bit() -> None:
    a = torch.ones(5)
    b = a.clone()
    b[3] = torch.nextafter(b[3], torch.tensor(2.0))
    assert differing(a, b) == 1
    with pytest.raises(AssertionError, match="tensor 0"):
        assert_same_bits([a], [b])
