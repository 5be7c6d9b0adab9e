"""Lookahead and SAM around any optimizer: their numbers, and that they are drop-in optimizers."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import thalweg
from oracles import wrappers as oracle
from peers import from_package, from_timm
from subjects import clones, gradients, parameters, run
from test_drop_in import SCHEDULERS, two_groups
from thalweg import options as opt
from trajectories import assert_same_bits

BASES = {
    "thalweg AdamW": lambda p: thalweg.AdamW(p, lr=0.05),
    "thalweg SGD": lambda p: thalweg.SGD(p, lr=0.05, momentum=0.9),
    "thalweg Lion": lambda p: thalweg.Lion(p, lr=0.01),
    "thalweg Prodigy": lambda p: thalweg.Prodigy(p),
    "thalweg MuonAdamW": lambda p: thalweg.MuonAdamW(p, lr=0.01),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "torch AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "torch Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "torch NAdam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "pytorch_optimizer AdaBelief": lambda p: from_package("pytorch_optimizer", "AdaBelief")(p),
    "pytorch_optimizer Lion": lambda p: from_package("pytorch_optimizer", "Lion")(p, lr=0.01),
    "timm Lion": lambda p: from_timm("lion", "Lion")(p, lr=0.01),
    "timm Lamb": lambda p: from_timm("lamb", "Lamb")(p, lr=0.05),
}
WRAPPERS = {
    "lookahead": lambda o: thalweg.Lookahead(o, k=3, alpha=0.5),
    "sam": lambda o: thalweg.SAM(o, rho=0.25),
    "asam": lambda o: thalweg.SAM(o, rho=0.5, adaptive=True),
    "sam of lookahead": lambda o: thalweg.SAM(thalweg.Lookahead(o, k=3), rho=0.25),
}
every_base = pytest.mark.parametrize("base", BASES)
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)


def build(wrapper, base, params):
    return WRAPPERS[wrapper](BASES[base](params))


def walk(optimizer, params, first, count):
    """Take steps with closures; the loss is a bowl that moves, so that gradients depend on the weights."""
    for t in range(first, first + count):
        optimizer.step(closure_of(optimizer, params, t))


def closure_of(optimizer, params, t, calls=None):
    def closure():
        if calls is not None:
            calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        pushes = zip(params, gradients(params, t), strict=True)
        loss = sum((p * g).sum() + 0.5 * (p * p).sum() for p, g in pushes)
        loss.backward()
        return loss

    return closure


def innermost(optimizer):
    while isinstance(optimizer, thalweg.wrappers.wrapper.Wrapper):
        optimizer = optimizer.base_optimizer
    return optimizer


# --- numbers --------------------------------------------------------------------------------------


def hard_run(optimizer, params, late, steps=23):
    """Take steps with missing gradients, a group that is added on the way, and numbers that change."""
    for t in range(steps):
        if t == 5:
            optimizer.add_param_group({"params": late, "lr": 0.02})
            params = [*params, *late]
        if t == 11:
            optimizer.param_groups[0]["lookahead_alpha"] = 0.75
            optimizer.param_groups[1]["lookahead_k"] = 2
        for i, (p, g) in enumerate(zip(params, gradients(params, t), strict=True)):
            p.grad = None if (t + i) % 4 == 3 else g
        optimizer.step()


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["kernel", "eager"])
@pytest.mark.parametrize("cls", ["AdamW", "SGD", "Lion", "RAdam"])
def test_the_wrapper_and_the_option_give_the_same_numbers(cls, flags):
    """Same schedule: slow weights from before the first step, sync where a parameter's t % k == 0."""
    made, numbers = getattr(thalweg, cls), {"lr": 0.05, "weight_decay": 0.1, **flags}
    wrapped, optioned = parameters(torch.float64), parameters(torch.float64)
    late, later = parameters(torch.float64, seed=1), parameters(torch.float64, seed=1)
    hard_run(thalweg.Lookahead(made(two_groups(wrapped), **numbers), 4, 0.3), wrapped, late)
    option = opt.Lookahead(4, 0.3)
    hard_run(made(two_groups(optioned), options=[option], **numbers), optioned, later)
    for p, q in zip([*wrapped, *late], [*optioned, *later], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_the_wrapper_around_torchs_gives_what_the_option_in_ours_gives():
    wrapped, optioned = parameters(torch.float64), parameters(torch.float64)
    theirs = thalweg.Lookahead(torch.optim.AdamW(two_groups(wrapped), lr=0.05), 4, 0.3)
    ours = thalweg.AdamW(two_groups(optioned), lr=0.05, options=[opt.Lookahead(4, 0.3)])
    late, later = parameters(torch.float64, seed=1), parameters(torch.float64, seed=1)
    hard_run(theirs, wrapped, late)
    hard_run(ours, optioned, later)
    for p, q in zip([*wrapped, *late], [*optioned, *later], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def bowl(seed=0, size=6):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((size, size))
    return a @ a.T / size + 0.1 * np.eye(size), rng.standard_normal(size)


@pytest.mark.parametrize("module", [thalweg, torch.optim], ids=["ours", "torch"])
@pytest.mark.parametrize("momentum", ["keep", "reset", "pullback"])
def test_lookahead_against_the_paper(momentum, module):
    a, start = bowl()
    path = oracle.lookahead(
        start, lambda w, t: a @ w + np.sin(t), 20, 0.1, 0.9, k=4, alpha=0.3, momentum=momentum
    )
    p = torch.nn.Parameter(torch.tensor(start))
    base = module.SGD([p], lr=0.1, momentum=0.9)
    optimizer = thalweg.Lookahead(base, k=4, alpha=0.3, momentum=momentum)
    for t, (fast, slow) in enumerate(path, 1):
        p.grad = torch.tensor(a) @ p.detach() + np.sin(t)
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), fast, rtol=1e-10)
        with optimizer.averaged():
            np.testing.assert_allclose(p.detach().numpy(), slow, rtol=1e-10)


def test_momentum_modes_differ_and_know_adams_mean():
    for name, wanted in (("reset", 0.0), ("pullback", 0.5), ("keep", 1.0)):
        params = parameters(torch.float64)
        optimizer = thalweg.Lookahead(torch.optim.AdamW(params), 1, 0.5, momentum=name)
        run(optimizer, params, 0, 1)
        for p, g in zip(params, gradients(params, 0), strict=True):
            torch.testing.assert_close(optimizer.state[p]["exp_avg"], wanted * 0.1 * g)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("phases", [1, 2])
def test_sam_against_the_paper(adaptive, phases):
    """Two groups with different rho share one norm."""
    (a, u), (b, v) = bowl(1), bowl(2, 4)

    def gradient(ws, t):
        return [a @ ws[0] ** 3 + np.sin(t), b @ ws[1] + ws[0].sum()]

    eta = 0.01 if adaptive else None
    path = oracle.sam([u, v], gradient, 15, 0.02, 0.9, rhos=[0.3, 0.1], eta=eta)
    p, q = (torch.nn.Parameter(torch.tensor(x)) for x in (u, v))
    base = torch.optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.02, momentum=0.9)
    optimizer = thalweg.SAM(base, rho=0.3, adaptive=adaptive)
    optimizer.param_groups[1]["sam_rho"] = 0.1
    for t, wanted in enumerate(path, 1):

        def closure(t=t):
            p.grad, q.grad = (
                torch.tensor(g) for g in gradient([x.detach().numpy() for x in (p, q)], t)
            )
            return torch.zeros(())

        if phases == 1:
            optimizer.step(closure)
        else:
            closure()
            optimizer.first_step(zero_grad=True)
            assert p.grad is None
            closure()
            optimizer.second_step()
        for x, w in zip((p, q), wanted, strict=True):
            np.testing.assert_allclose(x.detach().numpy(), w, rtol=1e-10)


def test_sam_climbs_down_where_a_group_maximizes():
    """Minus the loss, maximized, is the loss minimized."""
    runs = []
    for sign in (1.0, -1.0):
        params = parameters()
        optimizer = thalweg.SAM(torch.optim.SGD(params, lr=0.1, maximize=sign < 0), rho=0.5)
        for _ in range(3):

            def closure(sign=sign, params=params, optimizer=optimizer):
                optimizer.zero_grad()
                loss = sign * sum((p**4).sum() for p in params)
                loss.backward()
                return loss

            optimizer.step(closure)
        runs.append(params)
    assert_same_bits(*runs)


@every_base
def test_wrappers_that_do_nothing_change_no_bit(base):
    """alpha = 1 ends on the fast weights, rho = 0 does not climb: only the wrapping is left."""
    plain, ahead, aware = parameters(), parameters(), parameters()
    walk(BASES[base](plain), plain, 0, 7)
    walk(thalweg.Lookahead(BASES[base](ahead), k=2, alpha=1.0), ahead, 0, 7)
    walk(thalweg.SAM(BASES[base](aware), rho=0.0), aware, 0, 7)
    assert_same_bits(ahead, plain)
    assert_same_bits(aware, plain)


@pytest.mark.parametrize("wrapper", ["lookahead", "sam", "asam"])
@pytest.mark.parametrize("base", [b for b in BASES if "Lion" not in b])  # signs rarely differ
def test_every_base_is_moved_otherwise_by_a_wrapper(wrapper, base):
    plain, wrapped = parameters(), parameters()
    walk(BASES[base](plain), plain, 0, 7)
    walk(build(wrapper, base, wrapped), wrapped, 0, 7)
    assert all(torch.isfinite(p).all() for p in wrapped)
    assert not torch.equal(plain[0], wrapped[0])


# --- closures -------------------------------------------------------------------------------------


@every_wrapper
@every_base
def test_closures_run_under_grad_as_often_as_they_must(wrapper, base):
    params, calls = parameters(), []
    optimizer = build(wrapper, base, params)
    first = closure_of(optimizer, params, 0)()
    with torch.no_grad():
        loss = optimizer.step(closure=closure_of(optimizer, params, 0, calls))
    assert calls == [True] * (1 if wrapper == "lookahead" else 2)
    torch.testing.assert_close(loss, first)  # SAM's is the loss at the weights, not at the climb


def test_lookahead_without_a_closure_returns_none():
    params = parameters()
    optimizer = build("lookahead", "torch AdamW", params)
    closure_of(optimizer, params, 0)()
    assert optimizer.step() is None


def test_closures_run_under_grad_where_the_wrapped_one_forgets_it():
    class Forgetful(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            if closure is not None:
                closure()
            torch.optim.SGD.step.__wrapped__(self)

    params, calls = parameters(), []
    optimizer = thalweg.Lookahead(Forgetful(params, lr=0.1))
    optimizer.step(closure_of(optimizer, params, 0, calls))
    assert calls == [True]


def test_lookahead_around_lbfgs_passes_the_closure_on():
    def made(params):
        return torch.optim.LBFGS(params, lr=0.5, max_iter=4)

    plain, wrapped, calls, wanted = parameters(), parameters(), [], []
    optimizer = made(plain)
    optimizer.step(closure_of(optimizer, plain, 0, wanted))
    half = thalweg.Lookahead(made(wrapped), k=1, alpha=0.5)
    loss = half.step(closure_of(half, wrapped, 0, calls))
    assert len(calls) == len(wanted) > 1
    assert loss.item() > 0.0
    for p, q, start in zip(wrapped, plain, parameters(), strict=True):
        torch.testing.assert_close(p, (q + start) / 2)


def test_sam_zeroes_between_the_calls_of_a_forgetful_closure():
    runs = []
    for forget in (False, True):
        p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = thalweg.SAM(torch.optim.SGD([p], lr=0.1), rho=0.5)

        def closure(p=p, forget=forget):
            if not forget:
                p.grad = None
            loss = (p**4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        runs.append(p)
    assert_same_bits(runs[:1], runs[1:])


# --- groups and schedulers ------------------------------------------------------------------------


@every_wrapper
@every_base
def test_groups_state_and_defaults_are_the_wrapped_ones(wrapper, base):
    params = parameters()
    optimizer = build(wrapper, base, params)
    inner = innermost(optimizer)

    def shared():
        return (
            optimizer.param_groups is inner.param_groups
            and optimizer.state is inner.state
            and optimizer.defaults is inner.defaults
        )

    assert isinstance(optimizer, torch.optim.Optimizer)
    assert shared()
    walk(optimizer, params, 0, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert shared()
    inner.load_state_dict(copy.deepcopy(inner.state_dict()))
    assert shared()
    inner.add_param_group({"params": parameters(seed=1)})
    optimizer.add_param_group({"params": parameters(seed=2), "lr": 0.5})
    assert shared()
    assert optimizer.param_groups[-1]["lr"] == 0.5
    everything = [p for g in optimizer.param_groups for p in g["params"]]
    before = clones(everything)
    walk(optimizer, everything, 2, 4)
    assert all((p != b).any() for p, b in zip(everything, before, strict=True) if p.ndim)
    own = [{k for k in g if k.startswith(("lookahead_", "sam_"))} for g in optimizer.param_groups]
    assert len(own) >= 3
    assert all(own)
    assert all(keys == own[0] for keys in own)


def test_an_added_group_may_have_numbers_of_the_wrapper():
    optimizer = build("lookahead", "thalweg AdamW", parameters())
    optimizer.add_param_group({"params": parameters(seed=1), "lookahead_k": 7})
    assert [g["lookahead_k"] for g in optimizer.param_groups] == [3, 7]
    both = build("lookahead", "thalweg MuonAdamW", parameters())
    both.add_param_group({"params": parameters(seed=1), "lookahead_k": 7})
    assert [g["lookahead_k"] for g in both.param_groups] == [3, 3, 7, 7]
    with pytest.raises(
        ValueError, match=r"Invalid k value: 0. Lookahead needs \[1, inf\).*group 2"
    ):
        optimizer.add_param_group({"params": parameters(seed=2), "lookahead_k": 0})
    assert len(optimizer.param_groups) == 2


def test_weights_loaded_after_wrapping_are_where_lookahead_begins():
    """A wrapper that copies weights when it is made drags a pretrained model back to its old start."""
    params, pretrained = parameters(), parameters(seed=5)
    late = thalweg.Lookahead(torch.optim.AdamW(params), k=2)
    with torch.no_grad():
        for p, q in zip(params, pretrained, strict=True):
            p.copy_(q)
    run(late, params, 0, 5)
    run(thalweg.Lookahead(torch.optim.AdamW(pretrained), k=2), pretrained, 0, 5)
    assert_same_bits(params, pretrained)


@pytest.mark.parametrize("on", ["wrapper", "wrapped"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("wrapper", ["lookahead", "sam"])
def test_schedulers_on_either_object_drive_both(wrapper, scheduler, on):
    """Also after a checkpoint was loaded on the way; and never a warning about the order of calls."""
    seen = []
    for wrapped in (False, True):
        params = parameters()
        plain = torch.optim.SGD(two_groups(params), lr=0.125, momentum=0.9)
        optimizer = WRAPPERS[wrapper](plain) if wrapped else plain
        driven = optimizer if on == "wrapper" else plain
        lrs = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            driver = SCHEDULERS[scheduler](driven)
            for t in range(8):
                walk(optimizer, params, t, 1)
                driver.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
                lrs.append([(g["lr"], g["momentum"]) for g in plain.param_groups])
                if t == 3:
                    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        seen.append(lrs)
    assert seen[0] == seen[1]
    assert len(set(map(str, lrs))) > 1


@pytest.mark.parametrize("base", ["thalweg AdamW", "pytorch_optimizer AdaBelief"])
@every_wrapper
def test_a_scheduled_lr_reaches_the_step(wrapper, base):
    params = parameters()
    optimizer = build(wrapper, base, params)
    driver = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float(t != 1))
    walk(optimizer, params, 0, 1)
    driver.step()
    before = clones(params)
    walk(optimizer, params, 1, 1)
    assert_same_bits(params, before)


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["thalweg AdamW", "torch AdamW", "timm Lion"])
@every_wrapper
def test_every_hook_fires_once(wrapper, base):
    params, seen = parameters(), []
    optimizer = build(wrapper, base, params)
    inner = innermost(optimizer)

    def say(what):
        return lambda o, args, kwargs: seen.append((what, o))

    handles = [
        optimizer.register_step_pre_hook(say("pre")),
        optimizer.register_step_post_hook(say("post")),
        inner.register_step_pre_hook(say("inner pre")),
        inner.register_step_post_hook(say("inner post")),
        register_optimizer_step_pre_hook(say("global pre")),
        register_optimizer_step_post_hook(say("global post")),
    ]
    try:
        walk(optimizer, params, 0, 1)
    finally:
        for handle in handles:
            handle.remove()
    walk(optimizer, params, 1, 1)
    assert seen == [
        ("pre", optimizer),
        ("global pre", inner),
        ("inner pre", inner),
        ("inner post", inner),
        ("global post", inner),
        ("post", optimizer),
    ]


def test_a_pre_hook_may_replace_the_closure_and_a_post_hook_sees_the_sync():
    params, seen = parameters(), []
    optimizer = thalweg.Lookahead(torch.optim.SGD(params, lr=1.0), k=1, alpha=0.5)
    start = clones(params)

    def replace(o, args, kwargs):
        return (o, closure_of(optimizer, params, 0)), {}

    optimizer.register_step_pre_hook(replace)
    optimizer.register_step_post_hook(lambda o, a, k: seen.append(clones(params)))
    assert optimizer.step() is not None
    assert_same_bits(seen[0], params)
    for p, s, g in zip(params, start, gradients(params, 0), strict=True):
        torch.testing.assert_close(p, s - 0.5 * (g + s))


def test_a_pre_hook_that_returns_something_else_is_told_so():
    optimizer = build("lookahead", "torch SGD", parameters())
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match=r"must return None or a tuple of \(new_args"):
        optimizer.step()


# --- gradients ------------------------------------------------------------------------------------


@every_wrapper
def test_missing_gradients_leave_parameters_and_their_counts_alone(wrapper):
    params = parameters()
    optimizer = build(wrapper, "torch AdamW", params)
    start = params[0].detach().clone()
    for t in range(4):

        def closure(t=t):
            loss = closure_of(optimizer, params, t)()
            params[0].grad = None
            return loss

        optimizer.step(closure)
    assert torch.equal(params[0], start)
    assert 0 not in optimizer.state_dict()["state"]
    walk(optimizer, params, 4, 1)
    assert not torch.equal(params[0], start)
    if "lookahead" in wrapper:
        saved = optimizer.state_dict()["state"]
        assert [saved[i]["lookahead_step"] for i in range(2)] == [1, 5]


@every_wrapper
def test_zero_grad_clears_or_zeroes(wrapper):
    params = parameters()
    optimizer = build(wrapper, "thalweg AdamW", params)
    closure_of(optimizer, params, 0)()
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@every_wrapper
def test_no_gradients_or_zero_gradients_move_nothing_even_without_a_closure(wrapper):
    """Distributed checkpoints make a fresh optimizer step so, with lr = 0."""
    params = parameters()
    optimizer = build(wrapper, "thalweg SGD", params)
    optimizer.step()
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(4):
        assert optimizer.step(closure=None) is None
    assert_same_bits(params, parameters())


@every_wrapper
def test_gradients_are_never_written(wrapper):
    params, seen = parameters(), []
    optimizer = build(wrapper, "torch SGD", params)

    def closure():
        loss = closure_of(optimizer, params, 0)()
        seen.append([(p.grad, p.grad.clone()) for p in params])
        return loss

    optimizer.step(closure)
    for grads in seen:
        for g, wanted in grads:
            assert torch.equal(g, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
@every_wrapper
def test_other_dtypes(wrapper, dtype):
    params = parameters(dtype)
    optimizer = build(wrapper, "torch SGD", params)

    def closure():
        optimizer.zero_grad()
        loss = sum((p.abs() ** 2).sum() for p in params)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == dtype for p in params)


@every_wrapper
def test_mixed_dtypes_and_layouts_walk_as_they_do_alone(wrapper):
    """foreach calls take lists of one kind; the others must not be left behind."""
    mixed = [*parameters(torch.float32), *parameters(torch.float64, seed=1)]
    mixed[2].data = mixed[2].data.contiguous(memory_format=torch.channels_last)
    optimizer = build(wrapper, "torch AdamW", mixed)
    walk(optimizer, mixed, 0, 7)
    wanted = [p.double().detach().requires_grad_() for p in parameters()]
    wanted += parameters(torch.float64, seed=1)
    walk(build(wrapper, "torch AdamW", wanted), wanted, 0, 7)
    for p, q in zip(mixed, wanted, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=1e-4, atol=1e-5)
    assert mixed[2].is_contiguous(memory_format=torch.channels_last)


def test_the_norm_of_half_precision_gradients_is_not_of_half_precision():
    """Its largest number is 65504."""
    p = torch.nn.Parameter(torch.zeros(100_000, dtype=torch.float16))
    optimizer = thalweg.SAM(torch.optim.SGD([p]), rho=1000.0)
    p.grad = torch.full_like(p, 300.0)
    optimizer.first_step()
    wanted = torch.full_like(p, 1000.0 / 100_000**0.5)
    torch.testing.assert_close(p.detach(), wanted, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("wrapper", ["lookahead", "sam", "asam"])
def test_sharded_and_plain_parameters_walk_as_plain_ones(wrapper):
    """On a mesh of one: a norm is taken over all shards, and no foreach call mixes the two kinds."""
    tensor = pytest.importorskip("torch.distributed.tensor")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        plain, mixed = parameters(), parameters()
        shard = tensor.distribute_tensor(mixed[1].detach(), mesh, [tensor.Shard(0)])
        mixed[1] = torch.nn.Parameter(shard)
        runs = []
        for params in (plain, mixed):
            optimizer = WRAPPERS[wrapper](torch.optim.SGD(params, lr=0.1, foreach=False))
            for t in range(7):

                def closure(params=params, t=t):
                    for p, g in zip(params, gradients(plain, t), strict=True):
                        sharded = isinstance(p, tensor.DTensor)
                        g = tensor.distribute_tensor(g, mesh, [tensor.Shard(0)]) if sharded else g
                        p.grad = g + p.detach()
                    return torch.zeros(())

                optimizer.step(closure)
            runs.append([p.detach() for p in params])
        runs[1][1] = runs[1][1].full_tensor()
        for p, q in zip(*runs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()


def test_lookahead_follows_a_model_that_changes_its_dtype():
    params = parameters()
    optimizer = build("lookahead", "torch SGD", params)
    run(optimizer, params, 0, 2)
    for p in params:
        p.data = p.data.double()
        optimizer.state[p]["momentum_buffer"] = optimizer.state[p]["momentum_buffer"].double()
    run(optimizer, params, 2, 4)
    assert all(torch.isfinite(p).all() and p.dtype == torch.float64 for p in params)


# --- automatic mixed precision --------------------------------------------------------------------


def scaler_of(scale=1024.0):
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


def scaled_loss(scaler, params, t):
    pushes = zip(params, gradients(params, t), strict=True)
    return scaler.scale(sum((p * g).sum() + 0.5 * (p * p).sum() for p, g in pushes))


@every_base
def test_a_scaler_drives_lookahead(base):
    """Around a fused optimizer too, which would see neither scale nor overflow set on the wrapper."""
    plain, params = parameters(), parameters()
    walk(build("lookahead", base, plain), plain, 0, 6)
    optimizer, scaler = build("lookahead", base, params), scaler_of()
    for t in (0, 1, 2, 2, 3, 4, 5):
        spoil = t == 2 and scaler.get_scale() == 1024.0
        before = clones(params), copy.deepcopy(optimizer.state_dict())
        optimizer.zero_grad()
        scaled_loss(scaler, params, t).backward()
        if spoil:
            params[1].grad[0, 0] = float("inf")
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if spoil:
            assert_same_bits(params, before[0])
            assert_same_bits(optimizer.state_dict()["state"], before[1]["state"])
    assert scaler.get_scale() == 512.0
    assert_same_bits(params, plain)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("overflow", [None, "first", "second"])
@pytest.mark.parametrize("base", ["thalweg AdamW", "torch AdamW fused", "torch SGD"])
def test_a_scaler_drives_sam_in_two_phases(base, overflow, unscale):
    plain, params = parameters(), parameters()
    walk(build("sam", base, plain), plain, 0, 4)
    optimizer, scaler = build("sam", base, params), scaler_of()
    steps = [0, 1, 1, 2, 3] if overflow else [0, 1, 2, 3]
    for i, t in enumerate(steps):
        spoil = overflow if i == 1 else None
        before = clones(params)
        optimizer.zero_grad()
        scaled_loss(scaler, params, t).backward()
        if spoil == "first":
            params[1].grad[0, 0] = float("inf")
        optimizer.first_step(zero_grad=True)
        assert all(torch.isfinite(p).all() for p in params)  # else batch-norm would learn a NaN
        scaled_loss(scaler, params, t).backward()
        if spoil:
            params[1].grad[0, 0] = float("inf")
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if spoil:
            assert_same_bits(params, before)
    assert scaler.get_scale() == (512.0 if overflow else 1024.0)
    for p, q in zip(params, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("base", [b for b in BASES if "pytorch_optimizer" not in b])
@every_wrapper
def test_a_copy_goes_on_as_the_original(wrapper, base, duplicate):
    """pytorch_optimizer's own classes lose attributes when copied, with and without a wrapper."""
    params = parameters()
    optimizer = build(wrapper, base, params)
    walk(optimizer, params, 0, 4)
    before = clones(params)
    other, others = duplicate((optimizer, params))
    walk(other, others, 4, 4)
    assert_same_bits(params, before)
    walk(optimizer, params, 4, 4)
    assert_same_bits(others, params)
    assert type(other) is type(optimizer)


def test_it_says_what_it_is_and_passes_questions_on():
    optimizer = build("sam of lookahead", "thalweg AdamW", parameters())
    assert repr(optimizer).startswith("SAM of Lookahead of AdamW (")
    assert "AdamW" in optimizer.summary()
    with pytest.raises(AttributeError, match="no_such_thing"):
        optimizer.no_such_thing()
    unmade = thalweg.SAM.__new__(thalweg.SAM)  # as unpickling begins: no endless recursion
    assert not hasattr(unmade, "anything")
