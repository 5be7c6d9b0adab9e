"""Every optimizer is a torch.optim.Optimizer to its driver: closures, hooks, schedulers, AMP."""

import copy
import inspect
import pickle

import pytest
import torch
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook

import thalweg
from subjects import (
    BACKENDS,
    PLAIN,
    SUBJECTS,
    clones,
    gradients,
    make,
    parameters,
    run,
    run_new,
)
from thalweg import Hyper, Scalar, rule
from trajectories import assert_same_bits, snapshot

every_subject = pytest.mark.parametrize("name", SUBJECTS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


# --- closures, hooks, groups ----------------------------------------------------------------------


@every_backend
@every_subject
def test_closure_runs_once_under_grad_and_its_loss_returns(name, backend):
    params, calls = parameters(), []
    optimizer = make(name, params, **BACKENDS[backend])
    loss = torch.tensor(3.0)

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        sum((p * p).sum() for p in params).backward()
        return loss

    before = [p.detach().clone() for p in params]
    with torch.no_grad():
        assert optimizer.step(closure) is loss
    assert len(calls) == 1
    assert optimizer.step(closure=closure) is loss
    assert len(calls) == 2
    assert optimizer.step() is None
    assert all((p != b).any() for p, b in zip(params, before, strict=True))


@every_subject
def test_step_hooks_fire_once_in_order(name):
    params, seen = parameters(), []
    optimizer = make(name, params)
    run(optimizer, params, 2, 1)  # ADOPT's first step moves nothing
    start = params[0].detach().clone()

    def pre(opt_, args, kwargs):
        assert opt_ is optimizer
        assert torch.equal(params[0], start)
        seen.append("pre")

    def post(opt_, args, kwargs):
        assert not torch.equal(params[0], start)
        seen.append("post")

    handles = [
        optimizer.register_step_pre_hook(pre),
        optimizer.register_step_post_hook(post),
        register_optimizer_step_post_hook(lambda *_: seen.append("global")),
    ]
    try:
        run(optimizer, params, 0, 1)
    finally:
        for handle in handles:
            handle.remove()
    run(optimizer, params, 1, 1)
    assert seen == ["pre", "post", "global"]


def test_a_pre_hook_may_replace_gradients():
    """The gradients are read after the hooks ran."""
    params, others = parameters(), parameters()
    hooked, plain = make("adamw", params), make("adamw", others)

    def double(*_):
        for p in params:
            p.grad = p.grad * 2

    hooked.register_step_pre_hook(double)
    run(hooked, params, 0, 1)
    for p, g in zip(others, gradients(others, 0), strict=True):
        p.grad = g * 2
    plain.step()
    assert_same_bits(params, others)


@every_subject
def test_state_dict_hooks_fire(name):
    optimizer, params = run_new(name, 2)
    other, seen = make(name, clones(params)), []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda o, d: seen.append("save post"))
    other.register_load_state_dict_pre_hook(lambda o, d: seen.append("load pre"))
    other.register_load_state_dict_post_hook(lambda o: seen.append("load post"))
    other.load_state_dict(optimizer.state_dict())
    assert seen == ["save pre", "save post", "load pre", "load post"]


@every_subject
def test_it_is_an_optimizer_with_plain_groups_and_lazy_state(name):
    params = parameters()
    optimizer = make(name, params)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert len(optimizer.state) == (len(params) if name == "adagrad" else 0)  # torch's is not lazy
    assert optimizer.param_groups[0]["lr"] == 0.0625
    assert optimizer.defaults["weight_decay"] == 0.125
    assert type(optimizer).__name__ in repr(optimizer)
    run(optimizer, params, 0, 1)
    assert set(optimizer.state) == (set() if name == "signsgd" else set(params))  # it keeps nothing
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    optimizer.step()  # no gradient anywhere: nothing to do, nothing to complain about


@every_backend
@every_subject
def test_added_groups_join_with_their_own_numbers(name, backend):
    """A group added on the way moves as it does in an optimizer of its own (norms aside)."""
    if name.startswith("laden"):
        pytest.skip("clipping by the norm over all groups makes one of two")
    old, new = parameters(seed=0), parameters(seed=1)
    optimizer = make(name, old, **BACKENDS[backend])
    run(optimizer, old, 0, 3)
    optimizer.add_param_group({"params": new, "lr": 0.25})
    for t in range(3, 8):
        for params in (old, new):
            for p, g in zip(params, gradients(params, t), strict=True):
                p.grad = g
        optimizer.step()
    alone_old, alone_new = parameters(seed=0), parameters(seed=1)
    run(make(name, alone_old, **BACKENDS[backend]), alone_old, 0, 8)
    run(make(name, alone_new, lr=0.25, **BACKENDS[backend]), alone_new, 3, 5)
    assert_same_bits([old, new], [alone_old, alone_new])
    assert optimizer.param_groups[0].keys() == optimizer.param_groups[1].keys()


@every_subject
def test_numbers_of_a_group_may_be_edited_in_place(name):
    """lr and weight_decay are read at every step, per group."""
    optimizer, params = run_new(name, 3)
    others = clones(params)
    other = make(name, others, lr=0.5, weight_decay=0.25)
    other.load_state_dict(optimizer.state_dict())
    for group in (*optimizer.param_groups, *other.param_groups):
        group["lr"], group["weight_decay"] = 0.03125, 0.0
    run(optimizer, params, 3, 4)
    run(other, others, 3, 4)
    assert_same_bits(params, others)


# --- schedulers -----------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5, power=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=12),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 3)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_here():
    found = {
        n
        for n, c in vars(lr_scheduler).items()
        if inspect.isclass(c) and issubclass(c, lr_scheduler.LRScheduler) and n[0] != "_"
    }
    assert found - {"LRScheduler"} <= set(SCHEDULERS)


def scheduled(optimizer, params, scheduler_name):
    """Run ten scheduled steps and return what the groups' numbers were."""
    scheduler = SCHEDULERS[scheduler_name](optimizer)
    seen = []
    for t in range(10):
        run(optimizer, params, t, 1)
        keys = ("lr", "betas", "momentum")
        seen.append([[g.get(k) for k in keys] for g in optimizer.param_groups])
        scheduler.step(*([1.0] if scheduler_name == "ReduceLROnPlateau" else []))
    return seen


def two_groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.25}]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("cls", ["SGD", "AdamW"])
def test_schedulers_drive_ours_as_torchs(cls, scheduler):
    runs = []
    for module in (thalweg, torch.optim):
        params = parameters(torch.float64)
        kwargs = {"momentum": 0.9} if cls == "SGD" else {}
        optimizer = getattr(module, cls)(two_groups(params), lr=0.125, **kwargs)
        runs.append((scheduled(optimizer, params, scheduler), params))
    (mine, my_params), (reference, torch_params) = runs
    assert mine == reference
    for p, q in zip(my_params, torch_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["lion", "ranger", "laden adamw"])
def test_schedulers_drive_every_kind(name, scheduler):
    params, reference = parameters(), parameters()
    mine = scheduled(make(name, two_groups(params), lr=0.125), params, scheduler)
    betas = {"betas": (0.9, 0.99)} if name == "lion" else {}
    betas = {"betas": (0.95, 0.999)} if name == "ranger" else betas
    theirs = torch.optim.AdamW(two_groups(reference), lr=0.125, **betas)
    wanted = scheduled(theirs, reference, scheduler)
    assert [[g[:2] for g in s] for s in mine] == [[g[:2] for g in s] for s in wanted]
    assert all(torch.isfinite(p).all() for p in params)


@every_backend
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "1-dim"])
@every_subject
def test_tensor_lr_equals_a_number(name, shape, backend):
    if backend == "foreach":
        pytest.skip("refused, as in torch: a Tensor lr with foreach=True")
    numbers, tensors = parameters(), parameters()
    plain = make(name, numbers, **BACKENDS[backend])
    lr = torch.full(shape, 0.0625)
    optimizer = make(name, tensors, lr=lr, **BACKENDS[backend])
    run(plain, numbers, 0, 3)
    run(optimizer, tensors, 0, 3)
    assert_same_bits(tensors, numbers)
    plain.param_groups[0]["lr"] = 0.5
    lr.fill_(0.5)
    run(plain, numbers, 3, 3)
    run(optimizer, tensors, 3, 3)
    assert_same_bits(tensors, numbers)
    assert lr.shape == shape
    assert (lr == 0.5).all()


def test_a_scheduler_fills_a_tensor_lr():
    params, reference = parameters(torch.float64), parameters(torch.float64)
    mine = thalweg.AdamW(params, lr=torch.tensor(0.1, dtype=torch.float64))
    theirs = torch.optim.AdamW(reference, lr=0.1)
    for optimizer, tensors in ((mine, params), (theirs, reference)):
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.7)
        for t in range(5):
            run(optimizer, tensors, t, 1)
            scheduler.step()
    for p, q in zip(params, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


# --- copies ---------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["deepcopy", "pickle"],
)
@every_subject
def test_a_copy_continues_as_the_original(name, duplicate, backend):
    optimizer, params = run_new(name, 5, **BACKENDS[backend])
    before = snapshot(optimizer)
    other, others = duplicate((optimizer, params))
    run(other, others, 5, 6)
    assert_same_bits(snapshot(optimizer), before)  # the copy shares nothing
    run(optimizer, params, 5, 6)
    assert_same_bits(snapshot(other), snapshot(optimizer))
    assert type(other) is type(optimizer)


@every_subject
def test_a_copy_of_the_optimizer_alone_has_parameters_of_its_own(name):
    optimizer, params = run_new(name, 2)
    other = copy.deepcopy(optimizer)
    others = other.param_groups[0]["params"]
    run(other, others, 2, 3)
    run(optimizer, params, 2, 3)
    assert_same_bits(others, params)


@every_subject
def test_a_copy_before_the_first_step_works_too(name):
    params = parameters()
    optimizer = make(name, params)
    other, others = pickle.loads(pickle.dumps((optimizer, params)))
    run(optimizer, params, 0, 4)
    run(other, others, 0, 4)
    assert_same_bits(others, params)


# --- automatic mixed precision --------------------------------------------------------------------


@every_backend
@every_subject
def test_grad_scaler_unscales_and_skips_what_is_inf(name, backend):
    """A scale that is a power of two must change no bit; an inf must change nothing at all."""
    backend = {"fused": True} if backend == "fused" else BACKENDS[backend]
    _, plain_params = run_new(name, 6, **backend)
    params = parameters()
    optimizer = make(name, params, **backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for t in range(6):
        if t in (0, 3):
            disturbed = snapshot(optimizer)
            _scaled_step(scaler, optimizer, params, t, spoil=True)
            assert_same_bits(snapshot(optimizer), disturbed)
        _scaled_step(scaler, optimizer, params, t)
    assert scaler.get_scale() == 256.0
    assert_same_bits(params, plain_params)


def _scaled_step(scaler, optimizer, params, t, spoil=False):
    optimizer.zero_grad()
    wanted = gradients(params, t)
    loss = sum((p * g).sum() for p, g in zip(params, wanted, strict=True))
    scaler.scale(loss).backward()
    if spoil:
        params[1].grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


# --- differentiable -------------------------------------------------------------------------------


def _differentiable_step(p, g, cls, kwargs, keys, *state):
    p = p.clone()
    p.grad = g
    optimizer = getattr(thalweg, cls)([p], differentiable=True, **kwargs)
    optimizer.state[p].update(dict(zip(keys, [s.clone() for s in state], strict=True)))
    optimizer.step()
    after = [v for v in optimizer.state[p].values() if torch.is_tensor(v) and v.requires_grad]
    return (p, *after)


@rule(scalars=(Scalar("step"), Scalar("gain", 1.0)), hypers=(Hyper("keep", 0.75),))
def fading(g, *, keep, gain):
    """A number of the state that the step multiplies by, and that is another one afterwards."""
    return g * gain * gain, gain * keep


DIFFERENTIABLE = {
    "own scalar": ("Optimizer", {"rule": fading}, ("step", "gain")),
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}, ("momentum_buffer",)),
    "adam": ("Adam", {}, ("step", "exp_avg", "exp_avg_sq")),
    "amsgrad": ("Adam", {"amsgrad": True}, ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    "adamw": ("AdamW", {}, ("step", "exp_avg", "exp_avg_sq")),
    "radam": ("RAdam", {}, ("step", "exp_avg", "exp_avg_sq")),
    "nadam": ("NAdam", {}, ("step", "exp_avg", "exp_avg_sq", "mu_product")),
    "asgd": ("ASGD", {}, ("step", "eta", "mu", "ax")),
    "lion": ("Lion", {}, ("exp_avg",)),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck_through_one_step(name):
    """As torch's own tests do it: the parameter is no leaf, and p, g and the slots are inputs."""
    cls, kwargs, keys = DIFFERENTIABLE[name]
    torch.manual_seed(0)
    draw = [torch.rand(10, dtype=torch.float64, requires_grad=True) for _ in range(2 + len(keys))]
    scalars = {
        "step": torch.tensor(10.0, dtype=torch.float64),
        "gain": torch.tensor(0.7, dtype=torch.float64, requires_grad=True),
        "mu_product": torch.tensor(0.7, dtype=torch.float64, requires_grad=True),
        "eta": torch.tensor(0.9, dtype=torch.float64),
        "mu": torch.tensor(1.0, dtype=torch.float64),
    }
    state = [scalars.get(k, x) for k, x in zip(keys, draw[2:], strict=True)]
    kwargs = {"lr": 0.9, "weight_decay": 0.1, **kwargs}
    inputs = (draw[0], draw[1], cls, kwargs, keys, *state)
    assert torch.autograd.gradcheck(_differentiable_step, inputs)


def _differentiable_training(p, lr, weight_decay, cls, kwargs):
    p = p.clone()
    optimizer = getattr(thalweg, cls)(
        [p], lr=lr, weight_decay=weight_decay, differentiable=True, **kwargs
    )
    for _ in range(3):  # the graph of the loss holds the sum, not the parameter that then moves
        (p.grad,) = torch.autograd.grad((p.sum() - 2.0) ** 2, p, create_graph=True)
        optimizer.step()
    after = [v for v in optimizer.state[p].values() if torch.is_tensor(v) and v.requires_grad]
    return (p, *after)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck_through_three_steps_to_the_hyper_parameters(name):
    cls, kwargs, _ = DIFFERENTIABLE[name]
    torch.manual_seed(0)
    p = torch.rand(5, dtype=torch.float64, requires_grad=True)
    lr, weight_decay = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.01, 0.1)
    )
    assert torch.autograd.gradcheck(_differentiable_training, (p, lr, weight_decay, cls, kwargs))


def test_a_scalar_of_the_state_carries_its_gradient_from_step_to_step():
    keep = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
    p = torch.ones(3, dtype=torch.float64)
    optimizer = thalweg.Optimizer([p], lr=1.0, rule=fading, keep=keep, differentiable=True)
    for _ in range(3):
        p.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    # p = 1 - (1 + keep^2 + keep^4), gain = keep^3
    (d,) = torch.autograd.grad(p[0], keep, retain_graph=True)
    assert d.item() == pytest.approx(-(2 * 0.75 + 4 * 0.75**3))
    (d,) = torch.autograd.grad(optimizer.state[p]["gain"], keep)
    assert d.item() == pytest.approx(3 * 0.75**2)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_differentiable_walks_as_the_rest(name):
    cls, kwargs, _ = DIFFERENTIABLE[name]
    params, others = parameters(torch.float64), parameters(torch.float64)
    eager = getattr(thalweg, cls)(others, foreach=False, fused=False, **kwargs)
    run(eager, others, 0, 3)
    moving = [p * 1 for p in params]
    optimizer = getattr(thalweg, cls)(moving, differentiable=True, **kwargs)
    run(optimizer, moving, 0, 3)
    assert_same_bits(moving, others)


@pytest.mark.parametrize("name", PLAIN)
def test_backward_through_a_graph_older_than_the_step_raises(name):
    """Kernels write behind autograd's back; the version must tell, as torch's does."""
    for backend in BACKENDS.values():
        w = torch.nn.Parameter(torch.ones(4))
        optimizer = make(name, [w], **backend)
        loss = (w * w).sum()
        loss.backward(retain_graph=True)
        version = w._version
        optimizer.step()
        assert w._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
