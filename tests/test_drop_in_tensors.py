"""Tensors of every kind: layouts, sizes, precisions, complex numbers, threads, moved storages."""

import pytest
import torch

import thalweg
from subjects import (
    BACKENDS,
    PLAIN,
    SUBJECTS,
    clones,
    draw,
    gradients,
    make,
    parameters,
    run,
    run_new,
)
from thalweg import options as opt
from trajectories import assert_same_bits, snapshot, through_bytes

every_subject = pytest.mark.parametrize("name", SUBJECTS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
ELEMENTWISE = [n for n in PLAIN if n not in ("ranger", "adafactor")]
ANY_SHAPE = [n for n in ELEMENTWISE if n not in ("lars", "lamb")]  # those leave vectors out


# --- layouts --------------------------------------------------------------------------------------


def sliced(p):
    """Return the same values as every second column of a wider tensor, and that tensor."""
    wide = torch.full((*p.shape[:-1], 2 * p.shape[-1]), 77.0, dtype=p.dtype)
    view = wide[..., ::2]
    view.copy_(p.detach())
    return view.requires_grad_(), wide


def channels_last(p):
    return torch.nn.Parameter(p.detach().clone(memory_format=torch.channels_last))


def transposed(p):
    """Return equal values whose last two dimensions are swapped in memory."""
    return p.detach().mT.contiguous().mT


def in_a_slice(p):
    view, _ = sliced(p)
    return view.detach()


def expanded(p):
    """Return a gradient as ``sum().backward()`` makes it: one number, strides of zero."""
    return torch.tensor(0.25, dtype=p.dtype).expand(p.shape)


@every_backend
@every_subject
def test_strided_parameters_walk_as_contiguous_ones(name, backend):
    """And what lies between their elements is nobody's to write."""
    _, whole = run_new(name, 6, **BACKENDS[backend])
    contiguous = parameters()
    views = [sliced(p) if p.dim() else (p, None) for p in contiguous]
    params = [view for view, _ in views]
    run(make(name, params, **BACKENDS[backend]), params, 0, 6)
    assert_same_bits(params, whole)
    for _, wide in views[:-1]:
        assert (wide[..., 1::2] == 77.0).all()


@every_backend
@every_subject
def test_channels_last_parameters_walk_as_contiguous_ones(name, backend):
    shapes = ((2, 3, 5, 4), (4, 2, 1, 3))
    whole = parameters(shapes=shapes)
    run(make(name, whole, **BACKENDS[backend]), whole, 0, 6)
    params = [channels_last(p) for p in parameters(shapes=shapes)]
    strides = [p.stride() for p in params]
    optimizer = make(name, params, **BACKENDS[backend])
    for t in range(6):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = g.contiguous(memory_format=torch.channels_last) if t % 2 else g
        optimizer.step()
    assert_same_bits(params, whole)
    assert [p.stride() for p in params] == strides


@every_backend
@pytest.mark.parametrize("layout", [transposed, in_a_slice])
@every_subject
def test_gradients_with_other_strides(name, layout, backend):
    """The allocator may hand out the same address again: only the strides tell."""
    _, whole = run_new(name, 6, **BACKENDS[backend])
    params = parameters()
    optimizer = make(name, params, **BACKENDS[backend])
    for t in range(6):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = layout(g) if t in (1, 2, 4) and p.dim() >= 2 else g
        before = [(p.grad, p.grad.clone(), p.grad.stride()) for p in params]
        optimizer.step()
        for p, (grad, value, stride) in zip(params, before, strict=True):
            assert p.grad is grad
            assert grad.stride() == stride
            assert torch.equal(grad, value)
    assert_same_bits(params, whole)


@every_backend
@every_subject
def test_the_same_gradient_object_restrided_in_place(name, backend):
    """``resize_``, ``set_`` and ``t_`` change a tensor without a new one being made."""
    runs = []
    for restride in (False, True):
        params = [torch.nn.Parameter(torch.arange(16.0).reshape(4, 4) / 8 - 0.9)]
        optimizer = make(name, params, **BACKENDS[backend])
        g = draw((4, 4), torch.float32, torch.Generator().manual_seed(3))
        params[0].grad = g
        optimizer.step()
        if restride:
            params[0].grad.t_()
        else:
            params[0].grad = g.t().contiguous()
        optimizer.step()
        runs.append(params)
    assert_same_bits(*runs)


@every_backend
@every_subject
def test_expanded_gradients(name, backend):
    runs = []
    for dense in (False, True):
        params = parameters()
        optimizer = make(name, params, **BACKENDS[backend])
        for _ in range(4):
            for p in params:
                g = expanded(p)
                p.grad = g.clone(memory_format=torch.contiguous_format) if dense else g
            optimizer.step()
        runs.append(params)
    assert_same_bits(*runs)


@every_backend
@every_subject
def test_empty_and_0_dim_parameters(name, backend):
    """They move nothing, break nothing, and carry no nan into anybody's norm."""
    shapes = ((0,), (0, 3), (3, 0), (), (1,), (5, 4))
    params = parameters(shapes=shapes)
    optimizer = make(name, params, **BACKENDS[backend])
    run(optimizer, params, 0, 5)
    assert all(torch.isfinite(p).all() for p in params)
    rest = parameters(shapes=shapes)[3:]
    draws = [gradients(parameters(shapes=shapes), t)[3:] for t in range(5)]
    other = make(name, rest, **BACKENDS[backend])
    for t in range(5):
        for p, g in zip(rest, draws[t], strict=True):
            p.grad = g
        other.step()
    assert_same_bits(params[3:], rest)


@every_backend
@every_subject
def test_gradients_are_never_written(name, backend):
    params = parameters()
    optimizer = make(name, params, maximize=True, **BACKENDS[backend])
    for t in range(5):
        grads = gradients(params, t)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        copies = [g.clone() for g in grads]
        versions = [g._version for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same_bits(grads, copies)
        assert [g._version for g in grads] == versions


# --- storages that move ---------------------------------------------------------------------------


@every_backend
@every_subject
def test_swapped_data_is_followed(name, backend):
    """``p.data = ...`` moves a parameter; the storage it left belongs to somebody else."""
    _, whole = run_new(name, 6, **BACKENDS[backend])
    params = parameters()
    optimizer = make(name, params, **BACKENDS[backend])
    left = []
    for t in range(6):
        if t in (2, 3):
            for p in params:
                left.append(p.data)
                p.data = p.data.clone()
                left[-1].fill_(7.0)
        run(optimizer, params, t, 1)
    assert_same_bits(params, whole)
    assert all((x == 7.0).all() for x in left)


@every_backend
@every_subject
def test_data_of_another_shape_or_other_strides_at_the_same_address(name, backend):
    """Only shape and strides tell: a table that held on would write past the parameter's end."""
    params = [torch.nn.Parameter(p) for p in torch.linspace(-1, 1, 64).reshape(2, 4, 8)]
    optimizer = make(name, params, **BACKENDS[backend])
    run(optimizer, params, 0, 2)
    rest = params[0].data[2:]
    kept = rest.clone()
    for p in params:  # half the rows, as a pruning does; state follows
        p.grad = None
        optimizer.state[p] = {
            k: v[:2].clone() if v.shape[:1] == p.shape[:1] else v
            for k, v in optimizer.state[p].items()
        }
        p.data = p.data[:2]
    others = clones(params)
    other = make(name, others, **BACKENDS[backend])
    other.load_state_dict(optimizer.state_dict())
    run(optimizer, params, 2, 3)
    run(other, others, 2, 3)
    assert_same_bits(params, others)
    assert torch.equal(rest, kept)


@every_backend
@pytest.mark.parametrize("change", [lambda x: x[:2], lambda x: x.t()], ids=["rows", "transposed"])
def test_data_changed_at_the_same_address_of_a_rule_without_slots(change, backend):
    """There is no state whose replacement could tell."""
    params = [torch.nn.Parameter(p) for p in torch.linspace(-1, 1, 32).reshape(2, 4, 4)]
    optimizer = thalweg.SGD(params, lr=0.125, **BACKENDS[backend])
    run(optimizer, params, 0, 2)
    whole = params[0].data
    below = whole[2:].clone()
    for p in params:
        p.grad = None
        p.data = change(p.data)
    others = [torch.nn.Parameter(p.detach().clone().contiguous()) for p in params]
    other = thalweg.SGD(others, lr=0.125, **BACKENDS[backend])
    for t in range(3):
        for p, q in zip(params, others, strict=True):
            p.grad = draw(p.shape, p.dtype, torch.Generator().manual_seed(t)).clone()
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
    assert_same_bits(params, others)
    if params[0].shape == (2, 4):
        assert torch.equal(whole[2:], below)


@every_backend
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_data_transposed_at_the_same_address(name, backend):
    optimizer, params = run_square(name, backend)
    for p in params:
        p.data = p.data.t()
        state = optimizer.state[p]
        optimizer.state[p] = {k: v.t() if v.dim() == 2 else v for k, v in state.items()}
    others = [torch.nn.Parameter(p.detach().contiguous()) for p in params]
    other = make(name, others, **BACKENDS[backend])
    other.load_state_dict(optimizer.state_dict())
    run(optimizer, params, 2, 3)
    run(other, others, 2, 3)
    assert_same_bits(params, others)


def run_square(name, backend):
    params = parameters(shapes=((4, 4), (3, 3)))
    optimizer = make(name, params, **BACKENDS[backend])
    run(optimizer, params, 0, 2)
    return optimizer, params


@every_backend
@every_subject
def test_a_parameter_replaced_in_its_group_is_followed(name, backend):
    """Sharding tools replace parameters in the groups and move the state over."""
    _, whole = run_new(name, 6, **BACKENDS[backend])
    optimizer, params = run_new(name, 3, **BACKENDS[backend])
    new = clones(params)
    for old, p in zip(params, new, strict=True):
        if old in optimizer.state:
            optimizer.state[p] = optimizer.state.pop(old)
    optimizer.param_groups[0]["params"] = new
    kept = [p.detach().clone() for p in params]
    run(optimizer, new, 3, 3)
    assert_same_bits(new, whole)
    assert_same_bits(params, kept)


@pytest.mark.parametrize("name", PLAIN)
def test_half_and_back_between_steps(name):
    """``model.half().float()`` rounds the weights and replaces every storage; the state stays."""
    runs = []
    for backend in ("eager", "fused"):
        params = parameters()
        holder = torch.nn.ParameterList(params)
        optimizer = make(name, params, **BACKENDS[backend])
        run(optimizer, params, 0, 3)
        states = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params]
        holder.half().float()
        assert_same_bits([dict(optimizer.state[p]) for p in params], states)
        run(optimizer, params, 3, 3)
        runs.append(params)
    assert_same_bits(*runs)
    if name in ("adamw", "sgd", "radam"):
        cls, kwargs = PLAIN_TORCH[name]
        params = parameters()
        holder = torch.nn.ParameterList(params)
        theirs = cls(params, lr=0.0625, weight_decay=0.125, **kwargs)
        run(theirs, params, 0, 3)
        holder.half().float()
        run(theirs, params, 3, 3)
        for p, q in zip(runs[0], params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every_backend
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_late_and_frozen_parameters_fall_behind_alone(name, backend):
    """The first one starts three steps late, the last is frozen for two steps."""
    params = parameters()
    optimizer = make(name, params, **BACKENDS[backend])
    for t in range(8):
        grads = gradients(params, t)
        params[-1].requires_grad_(t not in (4, 5))
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            absent = (i == 0 and t < 3) or not p.requires_grad
            p.grad = None if absent else g
        optimizer.step()
    for i, steps in ((0, range(3, 8)), (1, range(8)), (3, (0, 1, 2, 3, 6, 7))):
        alone = [parameters()[i]]
        other = make(name, alone, **BACKENDS[backend])
        for t in steps:
            alone[0].grad = gradients(params, t)[i]
            other.step()
        assert_same_bits(params[i], alone[0])
        assert_same_bits(dict(optimizer.state[params[i]]), dict(other.state[alone[0]]))


@every_subject
def test_a_fused_optimizer_of_parameters_without_storage_steps_once_they_have_some(
    name, monkeypatch
):
    """`with torch.device("meta")`, the optimizer, then `to_empty`: the order of large models."""
    future = torch.__future__  # without it `to_empty` makes other parameters, as torch's do
    monkeypatch.setattr(future, "get_swap_module_params_on_conversion", lambda: True)
    with torch.device("meta"):
        model = torch.nn.Linear(6, 5)
    optimizer = make(name, model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    says = "`fused=True` requires all the params to be floating point Tensors of supported devices"
    with pytest.raises(RuntimeError, match=f"^{says}.* but torch.float32 and meta"):
        optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad()
    model.to_empty(device="cpu")
    params = parameters(shapes=((5, 6), (5,)))
    for p, value in zip(model.parameters(), params, strict=True):
        p.data.copy_(value.detach())
    run(optimizer, list(model.parameters()), 0, 3)
    run(make(name, params, fused=True), params, 0, 3)
    assert_same_bits(list(model.parameters()), params)


# --- numbers --------------------------------------------------------------------------------------

PLAIN_TORCH = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
    "radam": (torch.optim.RAdam, {}),
}


@every_backend
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", ANY_SHAPE)
def test_complex_parameters_are_pairs_of_reals(name, dtype, backend):
    """One complex and one real parameter, against the same numbers viewed as reals."""
    shapes = ((3, 4), (5,))
    real = dtype.to_real()
    both = [draw(s, d, torch.Generator().manual_seed(i)) for i, (s, d) in enumerate(
        zip(shapes, (dtype, real), strict=True))]  # fmt: skip
    complex_params = [torch.nn.Parameter(x.clone()) for x in both]
    pairs = [torch.nn.Parameter(torch.view_as_real(both[0]).clone()), *clones(both[1:])]
    options = {"options": [opt.ClipValue(1.0), opt.Cautious(rescale=False), opt.Lookahead(k=2)]}
    optimizer = make(name, complex_params, **options, **BACKENDS[backend])
    other = make(name, pairs, **options, **BACKENDS[backend])
    for t in range(6):
        grads = gradients(complex_params, t)
        pair_grads = [torch.view_as_real(grads[0]).clone(), grads[1]]
        for tensors, values in ((complex_params, grads), (pairs, pair_grads)):
            for p, g in zip(tensors, values, strict=True):
                p.grad = g
        optimizer.step()
        other.step()
        assert_same_bits(torch.view_as_real(complex_params[0].detach()), pairs[0])
        assert_same_bits(complex_params[1], pairs[1])
    for key, value in optimizer.state[complex_params[0]].items():
        if value.shape == shapes[0]:
            assert value.dtype == dtype, key


@every_backend
@pytest.mark.parametrize("name", PLAIN_TORCH)
def test_complex_parameters_agree_with_torch(name, backend):
    cls, kwargs = PLAIN_TORCH[name]
    mine, reference = (parameters(torch.complex128) for _ in range(2))
    optimizer = make(name, mine, **BACKENDS[backend])
    theirs = cls(reference, lr=0.0625, weight_decay=0.125, foreach=False, **kwargs)
    run(optimizer, mine, 0, 8)
    run(theirs, reference, 0, 8)
    for p, q in zip(mine, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@every_backend
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "radam"])
def test_bf16_parameters_compute_in_fp32_and_round_to_nearest(name, backend):
    """Each step from the same stored values: torch in float32, then one rounding."""
    cls, kwargs = PLAIN_TORCH[name]
    params = parameters(torch.bfloat16, shapes=((40, 60), (7,), ()))
    optimizer = make(name, params, **BACKENDS[backend])
    different = total = 0
    for t in range(6):
        wide = [torch.nn.Parameter(p.detach().float()) for p in params]
        reference = cls(wide, lr=0.0625, weight_decay=0.125, foreach=False, **kwargs)
        if t:
            reference.load_state_dict(through_bytes(optimizer.state_dict()))  # torch would share
        grads = gradients(params, t)
        for tensors in (params, wide):
            for p, g in zip(tensors, grads, strict=True):
                p.grad = g.to(p.dtype)
        optimizer.step()
        reference.step()
        for p, w in zip(params, wide, strict=True):
            assert p.dtype == torch.bfloat16
            off = _bf16_steps(p.detach(), w.detach().to(torch.bfloat16))
            assert off.max() <= 1
            different += int((off > 0).sum())
            total += p.numel()
    assert different <= 0.001 * total  # ties that float32's last bit decides


def _bf16_steps(a, b):
    """Return the distance in units of the last place of bfloat16."""
    codes = [x.reshape(-1).view(torch.int16).to(torch.int32) for x in (a, b)]
    ordered = [torch.where(c < 0, -(c & 0x7FFF), c) for c in codes]
    return (ordered[0] - ordered[1]).abs()


def test_bf16_comparer_sees_truncation():
    x = torch.linspace(1.0, 2.0, 1000)
    truncated = (x.view(torch.int32) & -65536).view(torch.float32).to(torch.bfloat16)
    assert _bf16_steps(truncated, x.to(torch.bfloat16)).float().mean() > 0.3


@every_subject
def test_bf16_backends_agree(name):
    _, eager = run_new(name, 8, torch.bfloat16, **BACKENDS["eager"])
    _, fused = run_new(name, 8, torch.bfloat16, **BACKENDS["fused"])
    assert_same_bits(fused, eager)


@every_subject
def test_float32_and_float64_backends_agree(name):
    """In float32 to the bit; in float64 torch's own square root is an ulp off now and then."""
    for dtype, rtol in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        eager, listed, fused = (run_new(name, 8, dtype, **b) for b in BACKENDS.values())
        if dtype is torch.float32:
            assert_same_bits(snapshot(fused[0])["state"], snapshot(eager[0])["state"])
            assert_same_bits(fused[1], eager[1])
        for other in (listed, fused):
            torch.testing.assert_close(other[1], eager[1], rtol=rtol, atol=rtol)


def test_mixed_types_in_one_optimizer():
    """Each parameter moves as it does alone, whatever its neighbours' types."""
    types = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    mixed = [parameters(d, shapes=((5, 3),))[0] for d in types]
    optimizer = make("adamw", mixed)
    run(optimizer, mixed, 0, 4)
    for i, p in enumerate(mixed):
        alone = parameters(types[i], shapes=((5, 3),))
        other = make("adamw", alone)
        for t in range(4):
            alone[0].grad = gradients(mixed, t)[i]
            other.step()
        assert_same_bits(p, alone[0])


@every_backend
@every_subject
def test_thread_counts_give_the_same_bits(name, backend):
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            params = parameters(shapes=((129, 260), (40000,), (7,)))
            optimizer = make(name, params, **BACKENDS[backend])
            run(optimizer, params, 0, 3)
            runs.append((params, snapshot(optimizer)))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(*runs)


def test_a_bf16_default_type_changes_nothing():
    """Counts kept in the default type would stop at 256."""
    _, whole = run_new("adamw", 3)
    torch.set_default_dtype(torch.bfloat16)
    try:
        optimizer, params = run_new("adamw", 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_bits(params, whole)
    assert optimizer.state[params[0]]["step"].dtype == torch.float32


def test_two_optimizers_over_the_same_parameters_keep_apart():
    params = parameters()
    one, two = make("adamw", params), make("lion", params)
    others = parameters()
    run(one, params, 0, 2)
    run(two, params, 2, 2)
    run(one, params, 4, 2)
    a, b = make("adamw", others), make("lion", others)
    run(a, others, 0, 2)
    run(b, others, 2, 2)
    run(a, others, 4, 2)
    assert_same_bits(params, others)
    assert set(two.state[params[0]]) == {"exp_avg"}
    assert isinstance(one, thalweg.AdamW)
