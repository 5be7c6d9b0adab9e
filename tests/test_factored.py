"""Sums over one of the last two dimensions, and slots that hold what they leave."""

import math

import pytest
import torch

import thalweg
from cases import BACKENDS, assert_same_bits, everything, gradients, parameters, run
from thalweg import Optimizer, Scalar, Slot, rule
from thalweg.engine.passes import split
from thalweg.engine.sums import block_sums, column_sums
from thalweg.errors import BackendError, CheckpointError, DeclarationError, StepError, TraceError
from thalweg.ops import abs, count, lerp, max, mean, minimum, norm, sqrt, sum, where
from thalweg.options import Average, Centralize, SkipNonFinite, StateDtype

# Lines and columns around the sizes of blocks (64 lines; 256 and 1024 columns; 4096 elements), stacks, and
# what has no lines, no columns, or too few dimensions.
SHAPES = (
    (5, 7), (64, 3), (65, 2), (130, 9), (3, 1030), (2, 4100), (2, 3, 3), (4, 2, 3, 3), (2, 70, 5), (1, 200),
    (200, 1), (9,), (1,), (), (0, 4), (4, 0), (3, 0, 2),
)  # fmt: skip


@rule(
    slots=(
        Slot("line", over=-1),
        Slot("column", init=0.5, over=-2),
        Slot("tops", over=-2),
        Slot("velocity"),
    ),
    scalars=(Scalar("step"), Scalar("least")),
    name="factored_statistics",
)
def statistics(g, line, column, tops, velocity, *, p, t, least):
    """Sums and maxima over both, folded over the other, read beside each other and in the next pass."""
    line = lerp(line, mean(g * g, over=-1), 1.0 / t)
    column = lerp(column, sum(abs(g), over=-2) / count(g, over=-2), 0.25)
    tops = where(t > 1.0, max(g + p, over=-2), tops)
    whole = mean(line, over=-2) + max(column, over=-1) + max(tops, over=-1) * sum(column, over=-1)
    u = g / (sqrt(line) * column + abs(whole) + 1.0)
    shifted = u - mean(u - tops, over=-1) + max(u * line, over=-2) / (abs(whole) + 1.0)
    velocity = lerp(velocity, shifted, 0.3)
    return velocity / (norm(shifted) + 1.0), line, column, tops, velocity, minimum(least, norm(u))


def after(backend, steps=3, dtype=torch.float32, shapes=SHAPES, declared=statistics, **more):
    params = parameters(dtype, shapes)[:-1]  # the last is channels_last
    optimizer = Optimizer(params, lr=0.1, rule=declared, **BACKENDS[backend], **more)
    run(optimizer, params, steps)
    return optimizer


def same_but_of_nothing(ours, theirs, **allowed):
    for a, b in zip(everything(ours), everything(theirs), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **allowed)


@pytest.mark.parametrize("options", [(), (Centralize, SkipNonFinite)], ids=["plain", "options"])
@pytest.mark.parametrize("threads", [1, 2])
def test_c_gives_eagers_bits(threads, options):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        eager, fused = (after(b, options=[o() for o in options]) for b in ("eager", "fused"))
    finally:
        torch.set_num_threads(before)
    assert "(C)" in fused.explain()
    assert_same_bits(everything(fused), everything(eager))


def test_foreach_agrees():
    lists = after("foreach")
    assert "on foreach" in lists.explain()
    same_but_of_nothing(lists, after("eager"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_formula(backend):
    """Written again with torch's own `dim=-1, keepdim=True`, in float64."""
    shapes = tuple(s for s in SHAPES if math.prod(s))
    optimizer = after(backend, 3, torch.float64, shapes)
    params = parameters(torch.float64, shapes)[:-1]
    wide = [p.detach().reshape((1,) * (2 - p.ndim) + tuple(p.shape)).clone() for p in params]
    state = [
        [p.new_zeros(*p.shape[:-1], 1), torch.full_like(p[..., :1, :], 0.5), 0 * p[..., :1, :], 0 * p]
        for p in wide
    ]  # fmt: skip
    for t in range(1, 4):
        for i, g in enumerate(gradients(params, t - 1)):
            p, (line, column, tops, velocity) = wide[i], state[i]
            g = g.view_as(p)
            line = line + ((g * g).mean(-1, keepdim=True) - line) / t
            column = column + (g.abs().mean(-2, keepdim=True) - column) / 4
            tops = (g + p).amax(-2, keepdim=True) if t > 1 else tops
            whole = line.mean(-2, keepdim=True) + column.amax(-1, keepdim=True)
            whole = whole + tops.amax(-1, keepdim=True) * column.sum(-1, keepdim=True)
            u = g / (line.sqrt() * column + whole.abs() + 1)
            shifted = u - (u - tops).mean(-1, keepdim=True)
            shifted = shifted + (u * line).amax(-2, keepdim=True) / (whole.abs() + 1)
            velocity = velocity + 0.3 * (shifted - velocity)
            wide[i] = p - 0.1 * velocity / (shifted.norm() + 1)
            state[i] = [line, column, tops, velocity]
    for p, expected, slots in zip(optimizer.param_groups[0]["params"], wide, state, strict=True):
        torch.testing.assert_close(p.detach(), expected.view_as(p), rtol=1e-11, atol=1e-13)
        for key, x in zip(("line", "column", "tops"), slots, strict=False):
            found = optimizer.state[p][key]
            torch.testing.assert_close(found, x.view_as(found), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("lines", [0, 1, 63, 64, 65, 128, 200, 64 * 5 + 1])
def test_column_sums_have_the_stated_order(lines):
    """Once more, number by number: 64 lines one after another, then neighbours."""
    x = torch.randn(lines, 3, generator=torch.Generator().manual_seed(lines), dtype=torch.float64)
    for c, found in enumerate(column_sums(x).tolist()):
        blocks = []
        for start in range(0, lines, 64):
            total = 0.0
            for v in x[start : start + 64, c].tolist():
                total += v
            blocks.append(total)
        while len(blocks) > 1:
            blocks += [0.0] * (len(blocks) % 2)
            blocks = [a + b for a, b in zip(blocks[0::2], blocks[1::2], strict=True)]
        assert found == (blocks[0] if blocks else 0.0)
    if lines > 128:  # another order does differ, so that the test above can fail
        assert not torch.equal(column_sums(x), block_sums(x.t().contiguous()))


@rule(slots=(Slot("lines", over=-1), Slot("columns", over=-2)), name="factored_sums")
def sums(g, lines, columns):
    return g, sum(g, over=-1), sum(g, over=-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_sums_in_that_order(backend):
    """In float64, where another order gives other bits: many blocks of lines, lines of many blocks."""
    for shape in ((64 * 11 + 5, 19), (2, 64 * 3, 3), (3, 5 * 4096 + 7)):
        p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        p.grad = torch.randn(shape, dtype=torch.float64)
        optimizer = Optimizer([p], rule=sums, **BACKENDS[backend])
        optimizer.step()
        state = optimizer.state[p]
        assert torch.equal(state["lines"].squeeze(-1), block_sums(p.grad))
        assert torch.equal(state["columns"].squeeze(-2), column_sums(p.grad))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slot_that_is_replaced_may_have_holes(backend):
    found = []
    for made in (lambda x: x, lambda x: torch.cat([x, x], -1)[..., :7]):
        optimizer = after(backend, 2, shapes=((3, 5, 7),))
        (p,) = optimizer.param_groups[0]["params"]
        optimizer.state[p]["column"] = made(optimizer.state[p]["column"] + 1.0)
        run(optimizer, [p], 2, start=2)
        found.append(everything(optimizer))
    assert_same_bits(*found)


def test_a_slot_has_one_element_in_its_dimension():
    optimizer = after("fused", 1)
    for p in optimizer.param_groups[0]["params"]:
        state, ones = optimizer.state[p], (1,) * (2 - p.ndim) + tuple(p.shape)
        line, column = (*ones[:-1], 1)[-p.ndim :], (*ones[:-2], 1, ones[-1])[-p.ndim :]
        assert state["line"].shape == (line if p.ndim else ())
        assert state["column"].shape == (column if p.ndim else ())
        assert state["velocity"].shape == p.shape


def test_what_is_written_is_written_in_the_last_pass():
    optimizer = after("fused", 1, shapes=((5, 7),))
    programs = split(optimizer._plan.runs[0].kind.graph)
    assert [bool(p.stores) for p in programs] == [False] * (len(programs) - 1) + [True]
    assert set(programs[-1].stores) == {"param", "velocity"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_skipped_step_moves_no_slot(backend):
    optimizer = after(backend, 2, shapes=((5, 7), (9,)), options=[SkipNonFinite()])
    params = optimizer.param_groups[0]["params"]
    before = [x.clone() for x in everything(optimizer)]
    params[0].grad = torch.full((5, 7), math.nan)
    optimizer.step()
    moved = [i for i, x in enumerate(everything(optimizer)) if not torch.equal(x, before[i])]
    assert optimizer.skipped_steps == 1
    assert all(everything(optimizer)[i].ndim == 0 for i in moved)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_slots_are_rounded_once(backend):
    optimizer = after(backend, 1, shapes=((5, 7),), options=[StateDtype(torch.bfloat16)])
    (p,) = optimizer.param_groups[0]["params"]
    (g,) = gradients(parameters(shapes=((5, 7),))[:-1], 0)
    expected = (g * g).double().mean(-1, keepdim=True).bfloat16()
    assert torch.equal(optimizer.state[p]["line"], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_resume_is_exact(backend):
    whole = after(backend, 5)
    first = after(backend, 3)
    params = [torch.nn.Parameter(p.detach().clone()) for p in first.param_groups[0]["params"]]
    second = Optimizer(params, lr=0.1, rule=statistics, **BACKENDS[backend])
    second.load_state_dict(first.state_dict())
    run(second, params, 2, start=3)
    assert_same_bits(everything(second), everything(whole))


@pytest.mark.parametrize(
    "made", [lambda x: x.t(), lambda x: x[:, ::2]], ids=["transposed", "holes"]
)
def test_lines_that_are_no_stretches_run_in_eager_and_it_says_so(made):
    start = torch.randn(6, 8)
    found = []
    for layout in (made, lambda x: made(x).contiguous()):
        p = torch.nn.Parameter(layout(start.clone()))
        optimizer = Optimizer([p], lr=0.1, rule=statistics)
        for seed in range(3):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        found.append((optimizer.explain(), [x.contiguous() for x in everything(optimizer)]))
    (said, ours), (_, theirs) = found
    assert "on eager (the parameter has holes in its storage, or its rows or lines are not" in said
    assert_same_bits(ours, theirs)
    p = torch.nn.Parameter(made(start))
    p.grad = torch.ones_like(p)
    with pytest.raises(BackendError, match="`fused=True` cannot run here: the parameter has holes"):
        Optimizer([p], rule=statistics, fused=True).step()


def test_complex_parameters_are_refused():
    p = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(StepError, match="would mix real and imaginary parts"):
        Optimizer([p], rule=statistics).step()


def test_a_step_can_be_differentiated():
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    p = w.clone()
    p.grad = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer = thalweg.Optimizer([w], lr=lr, rule=small, differentiable=True)
    optimizer.param_groups[0]["params"] = [p]
    optimizer.step()
    (by_lr,) = torch.autograd.grad(p.sum(), [lr])
    g = p.grad
    expected = g / ((g * g).mean(-1, keepdim=True) * (g * g).mean(-2, keepdim=True) + 1)
    torch.testing.assert_close(by_lr, -expected.sum(), rtol=1e-12, atol=0)


@rule(slots=(Slot("line", over=-1),), name="factored_small")
def small(g, line):
    line = mean(g * g, over=-1)
    return g / (line * mean(g * g, over=-2) + 1.0), line


# --- what is refused --------------------------------------------------------------------------------


def traced(function, *slots):
    declared = rule(slots=slots, name=f"factored_{function.__name__}")(function)
    return Optimizer([torch.nn.Parameter(torch.zeros(2, 2))], rule=declared)


def test_a_slot_is_declared_over_one_of_two_dimensions():
    def whatever(g, s):
        return g, s

    for slot in (Slot("s", over=0), Slot("s", over=-1, init="param"), Slot("s", when="not there")):
        with pytest.raises(DeclarationError, match="slot 's' has"):
            traced(whatever, slot)


def test_what_is_stored_fits_the_slot():
    def wide(g, line):
        return g, g * line

    def crossed(g, line):
        return g, sum(g, over=-2)

    for function, per in ((wide, "element"), (crossed, "column")):
        with pytest.raises(
            DeclarationError, match=f"a number per line and comes out as one per {per}"
        ):
            traced(function, Slot("line", over=-1))


def test_a_number_per_line_is_summed_over_the_lines_alone():
    def again(g):
        return g * sum(mean(g, over=-1), over=-1)

    def everywhere(g):
        return g * sum(mean(g, over=-1), over="tensor")

    def unknown(g):
        return g * sum(g, over=-3)

    for function, text in (
        (again, "one number per line; what a sum over -1 left can be summed over -2"),
        (everywhere, "one number per line"),
        (unknown, r"over is one of 'row', 'tensor', 'all', -1, -2"),
    ):
        with pytest.raises(TraceError, match=text):
            traced(function)


def test_a_checkpoint_of_other_shapes_is_refused():
    saved = after("eager", 1, shapes=((5, 7),)).state_dict()
    other = Optimizer(parameters(shapes=((5, 8),))[:-1], rule=statistics)
    with pytest.raises(CheckpointError, match=r"'column' .* has shape \(1, 7\).*needs \(1, 8\)"):
        other.load_state_dict(
            {**saved, "state": {0: {**saved["state"][0], "velocity": torch.ones(5, 8)}}}
        )


def test_an_average_beside_it_has_the_parameters_shape():
    optimizer = after("fused", 1, shapes=((5, 7),), options=[Average(0.5)])
    (p,) = optimizer.param_groups[0]["params"]
    assert optimizer.state[p]["average_ema"].shape == (5, 7)


def test_adafactor_keeps_two_vectors_per_matrix():
    p = torch.nn.Parameter(torch.ones(100, 300))
    p.grad = torch.ones_like(p)
    optimizer = thalweg.Adafactor([p])
    optimizer.step()
    assert sum_of_numel(optimizer.state[p]) == 100 + 300 + 1
    assert "1 tensors" in optimizer.summary()


def sum_of_numel(state):
    return torch.tensor([x.numel() for x in state.values()]).sum()


def test_explain_names_what_is_kept_per_line_and_column():
    said = after("fused", 1, shapes=((5, 7),)).explain()
    assert "velocity f32, line per line, column per column, tops per column" in said


def test_a_default_of_none_says_what_it_stands_for():
    with pytest.raises(DeclarationError, match="default None, without none="):
        thalweg.Hyper("eps", None)
    with pytest.raises(ValueError, match=r"epsilon1 should be >= 0 but is: 'x'.*typical: None"):
        thalweg.Adafactor([torch.nn.Parameter(torch.ones(1))], eps=("x", 1e-3))


def test_adafactors_epsilon_is_each_dtypes_own():
    """None is the machine epsilon of the parameter: with a gradient of zero squares it bounds the root."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        p = torch.nn.Parameter(torch.full((2, 2), 2.0, dtype=dtype))
        q = torch.nn.Parameter(torch.full((2, 2), 2.0, dtype=dtype))
        eps = torch.finfo(dtype).eps
        for w, given in ((p, None), (q, eps)):
            w.grad = torch.full((2, 2), 2.0**-70, dtype=dtype)
            thalweg.Adafactor([w], lr=1.0, eps=(given, 1e-3)).step()
        found.append((p, q))
    for p, q in found:
        assert torch.equal(p, q)
