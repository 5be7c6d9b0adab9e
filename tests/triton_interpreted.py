"""Generated Triton in Triton's interpreter, on CPU tensors, against eager.

Run by test_triton.py in a process of its own, since the interpreter is chosen when triton is imported.
By hand: TRITON_INTERPRET=1 pytest tests/triton_interpreted.py
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from cases import (
    BACKENDS,
    CONTIGUOUS,
    OPTIONS,
    RULES,
    SHAPES,
    assert_same_bits,
    differing,
    everything,
    gradients,
    parameters,
    run,
)

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start", allow_module_level=True)

import triton.language as tl
from triton.runtime import interpreter

import thalweg
from test_factored import statistics
from thalweg import ops
from thalweg.engine.backends import choice, triton_run, triton_source
from thalweg.engine.rule import Scalar, Slot, rule
from thalweg.errors import BackendError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities
convert_float = interpreter._convert_float


def rounding_convert_float(values, source, target, mode):
    """Between float32 and bfloat16 as the hardware does; the interpreter truncates, and loses subnormals."""
    if (source, target) == (tl.float32, tl.bfloat16):
        words = torch.from_numpy(np.array(values)).to(torch.bfloat16)
        return words.view(torch.uint16).numpy()
    if (source, target) == (tl.bfloat16, tl.float32):
        words = torch.from_numpy(np.array(values)).view(torch.bfloat16)
        return words.to(torch.float32).numpy()
    return convert_float(values, source, target, mode)


@pytest.fixture(autouse=True)
def hints(monkeypatch):
    """What kernels promise of addresses: each promise is checked."""
    kept = []
    set_attr = interpreter.TensorHandle.set_attr

    def checked(handle, key, value):
        if key == "tt.divisibility":
            assert not (handle.data % np.array(value)).any(), (
                "a pointer that is not aligned as said"
            )
            kept.append(value)
        set_attr(handle, key, value)

    monkeypatch.setattr(interpreter.TensorHandle, "set_attr", checked)
    return kept


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Buckets on the CPU run on Triton."""
    monkeypatch.setattr(choice, "kernel_for", lambda device: triton_run)
    monkeypatch.setattr(interpreter, "_convert_float", rounding_convert_float)


@pytest.fixture
def launches(monkeypatch):
    """The tables of every launch."""
    seen = []
    launch = triton_run.launch

    def counted(kernel, units, tables):
        seen.append((kernel.__name__, tuple(tables)))
        launch(kernel, units, tables)

    monkeypatch.setattr(triton_run, "launch", counted)
    return seen


def make(name, options, params, **flags):
    cls, arguments = RULES[name]
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "lr": arguments["lr"] / 2}]
    return cls(groups, **arguments, options=[OPTIONS[n]() for n in options], **flags)


def pair(name, options=(), dtype=torch.float32, *, steps, shapes=SHAPES):
    """Triton's optimizer and eager's after the same steps."""
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        params = parameters(dtype, shapes)
        if name in CONTIGUOUS:
            params.pop()  # the one that is channels_last
        optimizer = make(name, options, params, **flags)
        run(optimizer, params, steps)
        found.append(optimizer)
    assert "Triton" in found[0].explain()
    assert "eager" not in found[0].explain()
    return found


# Sums are of float64 in another order than eager's: they round to another float32 about once in 10^8.


@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_eagers_bits(name):
    ours, eager = pair(name, steps=8)  # RAdam switches at step 6
    assert_same_bits(everything(ours), everything(eager))


FEW = ((0,), (7,), (1023,), (4097,), (33, 5))


ON_LION = ("independent", "cautious-decay", "cautious", "lookahead")
PAIRS = [*(("adamw", option) for option in OPTIONS), *(("lion", option) for option in ON_LION)]


@pytest.mark.parametrize(("name", "option"), PAIRS)
def test_every_option_gives_eagers_bits(name, option):
    ours, eager = pair(name, (option,), steps=4, shapes=FEW)
    assert_same_bits(everything(ours), everything(eager))


LADEN = ("clip-value", "clip-norm", "centralize", "cautious", "lookahead", "average", "skip")


@pytest.mark.parametrize("name", ["sgd-momentum", "radam", "lion"])
def test_all_options_together_give_eagers_bits(name):
    ours, eager = pair(name, LADEN, steps=7, shapes=[(7,), (1025,), (33, 5), (3, 0, 2)])
    assert_same_bits(everything(ours), everything(eager))


@pytest.mark.parametrize("name", ["sgd-nesterov", "adam-amsgrad", "radam-decoupled", "lion"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(name, dtype):
    ours, eager = pair(name, ("cautious", "average", "lookahead"), dtype, steps=3, shapes=FEW)
    if dtype != torch.float64:
        assert_same_bits(everything(ours), everything(eager))
        return
    # torch's float64 square root and division are not promised to the bit
    for a, b in zip(everything(ours), everything(eager), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_state_beside_wider_weights(dtype):
    ours, eager = pair("adamw", ("bf16-state",), dtype, steps=4, shapes=FEW)
    exp_avg = ours.state[ours.param_groups[0]["params"][1]]["exp_avg"]
    assert exp_avg.dtype == torch.bfloat16
    found = zip(everything(ours), everything(eager), strict=True)
    if dtype == torch.float32:
        assert_same_bits(everything(ours), everything(eager))
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-12) for a, b in found)


def test_float64_is_rounded_twice_to_bfloat16_as_elsewhere():
    """By way of float32, in which 1 + 2^-8 + 2^-40 is the tie that goes to the even 1."""
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        p.grad = torch.full_like(p, 1 + 2**-8 + 2**-40)
        optimizer = make("sgd-nesterov", ("bf16-state",), [p], **flags)
        optimizer.step()
        assert optimizer.state[p]["momentum_buffer"].tolist() == [1.0] * 3


def test_complex_weights():
    ours, eager = pair("adamw", ("average",), torch.complex64, steps=3, shapes=[(5,), (2, 600)])
    assert_same_bits(everything(ours), everything(eager))


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_tensors_off_sixteen_bytes_take_the_masked_path(offset, hints):
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        start = parameters(shapes=[(3000 + offset,)])[0].detach()
        params = [torch.nn.Parameter(start[offset:])]
        assert (params[0].data_ptr() % 16 == 0) == (offset == 4)
        optimizer = thalweg.AdamW(params, lr=0.1, **flags)
        run(optimizer, params, 3)
        found.append([start, *everything(optimizer)])
    assert_same_bits(*found)
    assert bool(hints) == (offset == 4)


def test_counts_are_each_parameters_own():
    """A parameter without a gradient keeps its count; rows of scalars part, and are uploaded anew."""
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        params = parameters(shapes=[(7,), (33, 5), (1030,)])
        optimizer = make("ranger", ("average",), params, **flags)
        for step in range(9):
            for i, (p, g) in enumerate(zip(params, gradients(params, step), strict=True)):
                p.grad = None if (step, i) in {(0, 1), (3, 1), (4, 2)} else g
            optimizer.step()
        found.append(everything(optimizer))
        assert [int(optimizer.state[p]["step"]) for p in params] == [9, 7, 8, 9]
    assert_same_bits(*found)


def test_counts_that_are_written_from_outside_are_read_again():
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        params = parameters(shapes=[(7,), (33, 5)])
        optimizer = make("adamw", (), params, **flags)
        for step in range(4):
            if step == 2:
                optimizer.state[params[1]]["step"].fill_(9.0)
            run(optimizer, params, 1, start=step)
        found.append(everything(optimizer))
    assert_same_bits(*found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_step_moves_nothing(bad):
    params = parameters(shapes=[(7,), (1030,)])
    optimizer = make("adamw", ("skip", "average"), params, fused=True)
    run(optimizer, params, 2)
    before = [x.clone() for x in everything(optimizer)]
    for p, g in zip(params, gradients(params, 2), strict=True):
        p.grad = g
    params[1].grad[1027] = bad
    optimizer.step()
    skipped = [
        i
        for i, (a, b) in enumerate(zip(everything(optimizer), before, strict=True))
        if differing(a, b)
    ]
    assert optimizer.skipped_steps == 1
    assert all(everything(optimizer)[i].ndim == 0 for i in skipped), (
        "more moved than the count of skips"
    )


# --- the vocabulary --------------------------------------------------------------------------------


@rule(slots=(Slot("signs"), Slot("roots"), Slot("bounded")), name="triton_arithmetic")
def arithmetic(g, signs, roots, bounded):
    """Exact operations, and where zeros have signs and NaNs stay."""
    low = ops.minimum(-g, ops.abs(bounded) - 0.3)
    high = ops.maximum(ops.floor(g * 3.0), ops.sign(g) / (g + 1.0))
    kept = ops.where(ops.isfinite(g) & ~(g > 2.0) | (g <= -1.0), low, high)
    return kept, ops.sign(g), -ops.sqrt(ops.abs(g)), ops.clamp(g, -2.0, 2.0)


@rule(
    slots=(Slot("raised"), Slot("logged"), Slot("turned"), Slot("other")), name="triton_functions"
)
def functions(g, raised, logged, turned, other, *, p):
    """Functions that are a few ulps off anywhere."""
    return g, ops.exp(g), ops.log(ops.abs(g)), ops.atan2(g, p), ops.atan2(p, other - g)


@rule(scalars=(Scalar("top", 0.0),), name="triton_largest")
def largest(g, *, top):
    """Reductions by maximum, over all three; of numbers below zero, which no padding is."""
    below = -1.0 - ops.abs(g)
    row, tensor = ops.max(below, over="row"), ops.max(below, over="tensor")
    return g / row + tensor / ops.max(below, over="all"), tensor


@rule(name="triton_sums")
def sums(g):
    """Sums over all three, of numbers far from the zero that padding is."""
    return (
        ops.sum(g + 1.0, over="row") + ops.mean(g + 1.0, over="tensor") + ops.mean(g + 1.0, "all")
    )


def of_rule(declared, shapes, special=()):
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        params = parameters(shapes=shapes)
        optimizer = thalweg.Optimizer(params, lr=0.5, rule=declared, **flags)
        for step in range(2):
            for p, g in zip(params, gradients(params, step), strict=True):
                g.as_strided((len(special),), (1,)).copy_(torch.tensor(special))
                p.grad = g
            optimizer.step()
        found.append(everything(optimizer))
    return found


SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-40, 3e38)


def test_exact_operations_give_eagers_bits_signs_of_zeros_included():
    ours, eager = of_rule(arithmetic, [(8,), (1031,)], SPECIAL)
    assert_same_bits(ours, eager)
    for a, b in zip(ours, eager, strict=True):
        assert torch.equal(a.signbit() & (a == 0), b.signbit() & (b == 0))


def test_functions_are_within_their_ulps():
    ours, eager = of_rule(functions, [(8,), (1031,)], SPECIAL)
    for a, b in zip(ours, eager, strict=True):
        differs = (a != b) & ~((a != a) & (b != b))
        apart = a[differs].view(torch.int32) - b[differs].view(torch.int32)
        assert not (apart.abs() > 2).any()


@pytest.mark.parametrize("declared", [largest, sums])
@pytest.mark.parametrize("special", [(), (float("nan"),)])
def test_reductions_over_rows_tensors_and_all(declared, special):
    ours, eager = of_rule(declared, [(8,), (1031,), (2, 2500), (40, 7)], special)
    assert_same_bits(ours, eager)
    assert any(bool((x != x).any()) for x in ours) == bool(special)


FACTORED = ((5, 7), (130, 9), (3, 1030), (2, 4, 3), (1, 40), (9,), (), (0, 4), (4, 0), (3, 0, 2))


def test_sums_over_lines_and_columns():
    found = []
    for flags in (BACKENDS["fused"], BACKENDS["eager"]):
        params = parameters(shapes=FACTORED)[:-1]
        optimizer = thalweg.Optimizer(params, lr=0.1, rule=statistics, **flags)
        run(optimizer, params, 2)
        found.append(everything(optimizer))
    assert_same_bits(*found)


# --- host side --------------------------------------------------------------------------------------


def test_one_launch_per_bucket_and_pass_and_nothing_new_with_new_numbers(launches):
    params = parameters(shapes=[(7,), (1030,), (5, 3)])
    optimizer = make("adamw", ("cautious", "lookahead"), params, fused=True)
    run(optimizer, params, 1)
    names = [name for name, _ in launches]
    assert names == ["pass_0", "fold_0", "pass_1"]
    signature = [[x.dtype for x in tables] for _, tables in launches]
    loaded = triton_run.load.cache_info().misses
    for step in range(1, 6):
        launches.clear()
        for group in optimizer.param_groups:
            group["lr"] *= 0.7
            group["betas"] = (0.9 - 0.1 * step, 0.99 - 0.01 * step)
            group["lookahead_k"] = step
        run(optimizer, params, 1, start=step)
        assert [name for name, _ in launches] == names
        # Triton compiles anew for another dtype, for a number, or for an address off 16 bytes.
        assert [[x.dtype for x in tables] for _, tables in launches] == signature
        assert all(x.data_ptr() % 16 == 0 for _, tables in launches for x in tables)
    assert triton_run.load.cache_info().misses == loaded


def test_new_gradients_are_found():
    params = parameters(shapes=[(40,)])
    optimizer = thalweg.SGD(params, lr=1.0, fused=True)
    kept = []  # alive, so that no address comes twice
    for step in range(3):
        kept.append(gradients(params, step))
        expected = [p.detach() - g for p, g in zip(params, kept[-1], strict=True)]
        for p, g in zip(params, kept[-1], strict=True):
            p.grad = g
        optimizer.step()
        assert_same_bits(params, expected)


def test_a_kernel_that_does_not_compile_changes_nothing(monkeypatch):
    params = parameters(shapes=[(7,), (33, 5)])
    before = [p.detach().clone() for p in params]
    optimizer = thalweg.AdamW(params, lr=0.1)

    def fail(self):
        raise RuntimeError("ptxas exited with 255")

    with monkeypatch.context() as broken:
        broken.setattr(triton_run, "interpreted", lambda: False)
        broken.setattr(triton_run, "why_not", lambda *_: None)
        broken.setattr(triton_run.Pass, "compile", fail)
        with pytest.raises(BackendError, match=r"Triton cannot compile adam for cpu.*ptxas exited"):
            run(optimizer, params, 1)
    assert_same_bits(params, before)
    assert not optimizer.state
    run(optimizer, params, 2)
    undisturbed = parameters(shapes=[(7,), (33, 5)])
    other = thalweg.AdamW(undisturbed, lr=0.1)
    run(other, undisturbed, 2)
    assert_same_bits(everything(optimizer), everything(other))


def test_a_kernel_that_runs_wrongly_is_found_by_the_probe(monkeypatch):
    monkeypatch.setattr(triton_run, "_PROBE", triton_run._PROBE.replace("42", "41"))
    triton_run.unavailable.cache_clear()
    optimizer = thalweg.AdamW(parameters(shapes=[(7,)]), fused=True)
    with pytest.raises(BackendError, match="a Triton kernel gave a wrong answer"):
        run(optimizer, optimizer.param_groups[0]["params"], 1)
    triton_run.unavailable.cache_clear()


def test_arguments_are_the_kernels_parameters(launches):
    """What a pass is launched with is what its text asks for, in its order."""
    params = parameters(shapes=[(7,), (33, 5)])
    optimizer = make("ranger", ("cautious", "clip-norm"), params, fused=True)
    run(optimizer, params, 1)
    kinds = {r.kind for r in optimizer._plan.runs}
    for kind in kinds:
        kernels = triton_run.load(triton_run.source_of(kind))
        for i, program in enumerate(kind.programs):
            assert tuple(kernels[f"pass_{i}"].arg_names) == triton_source.arguments(program)
