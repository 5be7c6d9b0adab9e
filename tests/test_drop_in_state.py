"""What lives across steps: checkpoints, resumes, averages, skipped steps."""

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import thalweg
from subjects import (
    BACKENDS,
    BY_TENSOR,
    LADEN,
    PLAIN,
    SUBJECTS,
    clones,
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


def plain_data(x):
    """Tell whether a value is what ``weights_only`` and other languages can read."""
    if isinstance(x, dict):
        return type(x) is dict and all(plain_data(k) and plain_data(v) for k, v in x.items())
    if type(x) in (list, tuple):
        return all(plain_data(v) for v in x)
    return type(x) in (torch.Tensor, int, float, bool, str, type(None))


@pytest.mark.parametrize("bad", [object(), torch.nn.Parameter(torch.ones(1)), {"a": [int]}])
def test_plain_data_can_say_no(bad):
    assert plain_data({"a": [1, (2.0, None)], 3: torch.ones(1)})
    assert not plain_data({"a": bad})


# --- resuming -------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("at", [0, 1, 2, 5])
@every_subject
def test_resume_at_any_step_is_exact(name, at, backend):
    """Also in the middle of a Lookahead cycle (k is 3 and 4), and before the first step."""
    whole, whole_params = run_new(name, 13, **BACKENDS[backend])
    optimizer, params = run_new(name, at, **BACKENDS[backend])
    others = clones(params)
    other = make(name, others, **BACKENDS[backend])
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    run(other, others, at, 13 - at)
    assert_same_bits(others, whole_params)
    assert_same_bits(snapshot(other), snapshot(whole))


@every_subject
def test_backends_read_each_others_checkpoints(name):
    """The layout is one; and eager and the kernel compute the same bits."""
    _, whole = run_new(name, 8)
    for first, second in (("eager", "fused"), ("fused", "eager")):
        optimizer, params = run_new(name, 4, **BACKENDS[first])
        others = clones(params)
        other = make(name, others, **BACKENDS[second])
        other.load_state_dict(optimizer.state_dict())
        run(other, others, 4, 4)
        assert_same_bits(others, whole)


@every_subject
def test_state_dict_is_plain_data(name):
    optimizer, _ = run_new(name, 2)
    assert plain_data(optimizer.state_dict())
    assert_same_bits(through_bytes(optimizer.state_dict()), optimizer.state_dict())


@every_subject
def test_loading_copies_and_leaves_its_argument_alone(name):
    optimizer, params = run_new(name, 3)
    others = clones(params)
    other = make(name, others)
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    assert_same_bits(saved, kept)
    run(other, others, 3, 3)
    assert_same_bits(saved, kept)  # neither loading nor stepping wrote to it
    theirs = {v.untyped_storage().data_ptr() for s in saved["state"].values() for v in s.values()}
    mine = {v.untyped_storage().data_ptr() for s in other.state.values() for v in s.values()}
    assert not theirs & mine
    run(optimizer, params, 3, 3)
    assert_same_bits(params, others)


@every_subject
def test_loading_into_a_running_optimizer_goes_back(name):
    """The caches of the run before must not survive the load."""
    optimizer, params = run_new(name, 3)
    saved, weights = through_bytes(optimizer.state_dict()), [p.detach().clone() for p in params]
    run(optimizer, params, 3, 4)
    after = snapshot(optimizer)
    with torch.no_grad():
        for p, w in zip(params, weights, strict=True):
            p.copy_(w)
    optimizer.load_state_dict(saved)
    run(optimizer, params, 3, 4)
    assert_same_bits(snapshot(optimizer), after)


@pytest.mark.parametrize("name", PLAIN)
def test_a_float64_checkpoint_loads_into_float32(name):
    """Slots follow the parameter's type, as in torch; the step count and numbers do not."""
    optimizer, params = run_new(name, 3, dtype=torch.float64)
    others = [torch.nn.Parameter(p.detach().float()) for p in params]
    other = make(name, others)
    other.load_state_dict(optimizer.state_dict())
    for p, state in other.state.items():
        for key, value in state.items():
            if key in ("step", "mu_product", "eta", "mu"):
                assert (value.ndim, value.dtype) == (0, torch.float32)
            elif (name, key) == ("novograd", "exp_avg_sq"):
                assert (value.ndim, value.dtype) == (0, torch.float64)
            elif key in ("row_var", "col_var"):
                assert value.dtype == torch.float32, key
            else:
                assert value.dtype == torch.float32, key
                assert value.shape == p.shape
    run(optimizer, params, 3, 3)
    run(other, others, 3, 3)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(q.double(), p, rtol=1e-5, atol=1e-6)


@every_subject
def test_resume_with_bf16_parameters_is_exact(name):
    """Loading casts no count and no slot to the parameter's type that was not of it before."""
    whole, whole_params = run_new(name, 8, torch.bfloat16)
    optimizer, params = run_new(name, 4, torch.bfloat16)
    others = clones(params)
    other = make(name, others)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    for p, q in zip(params, others, strict=True):
        assert_same_bits(dict(other.state[q]), dict(optimizer.state[p]))
    run(other, others, 4, 4)
    assert_same_bits(others, whole_params)
    assert_same_bits(snapshot(other), snapshot(whole))
    assert all(s["step"].dtype == torch.float32 for s in other.state.values() if "step" in s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PLAIN)
def test_steps_count_beyond_what_float32_adds_up(name, dtype):
    """A count is a float32 tensor, as torch's is, until ones can no longer be added to it."""
    optimizer, params = run_new(name, 1)
    if "step" not in optimizer.state[params[0]]:
        pytest.skip("counts no steps")
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["step"] = torch.tensor(2.0**24 - 2).to(dtype)
    start = int(saved["state"][0]["step"])
    optimizer.load_state_dict(saved)
    run(optimizer, params, 1, 4)
    assert all(s["step"].item() == start + 4 for s in optimizer.state.values())
    saved = through_bytes(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    run(optimizer, params, 5, 1)
    assert all(s["step"].item() == start + 5 for s in optimizer.state.values())


@every_subject
def test_cleared_or_replaced_state_is_noticed(name):
    """Users clear ``state`` to restart, and sharding tools replace its tensors."""
    optimizer, params = run_new(name, 3)
    optimizer.state.clear()
    others = clones(params)
    run(optimizer, params, 3, 3)
    run(make(name, others), others, 3, 3)
    assert_same_bits(params, others)

    one, one_params = run_new(name, 3)
    two, two_params = run_new(name, 3)
    for p in one_params:
        one.state[p] = {k: v.clone() for k, v in one.state[p].items()}
    run(one, one_params, 3, 3)
    run(two, two_params, 3, 3)
    assert_same_bits(one_params, two_params)
    assert_same_bits(snapshot(one), snapshot(two))


@every_subject
def test_named_parameters(name):
    """Names are saved with the group, and change no number."""
    _, plain_params = run_new(name, 3)
    params = parameters()
    optimizer = make(name, [(f"layer.{i}", p) for i, p in enumerate(params)])
    run(optimizer, params, 0, 3)
    assert_same_bits(params, plain_params)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == [f"layer.{i}" for i in range(len(params))]
    others = clones(params)
    other = make(name, [(f"layer.{i}", p) for i, p in enumerate(others)])
    other.load_state_dict(saved)
    run(optimizer, params, 3, 2)
    run(other, others, 3, 2)
    assert_same_bits(others, params)


# --- distributed checkpoint -----------------------------------------------------------------------


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)
    )


@every_subject
def test_distributed_checkpoint_round_trip(name):
    """Loading makes the fresh optimizer step on zero gradients with lr = 0: nothing may move."""
    source = model()
    params = list(source.parameters())
    optimizer = make(name, params)
    run(optimizer, params, 0, 3)
    saved = through_bytes(get_optimizer_state_dict(source, optimizer))
    target = model(1)
    target.load_state_dict(source.state_dict())
    others = list(target.parameters())
    other = make(name, others)
    set_optimizer_state_dict(target, other, optim_state_dict=saved)
    assert_same_bits(others, params)
    run(optimizer, params, 3, 4)
    run(other, others, 3, 4)
    assert_same_bits(others, params)


@pytest.mark.parametrize("name", PLAIN)
def test_distributed_checkpoint_flattened(name):
    source = model()
    params = list(source.parameters())
    optimizer = make(name, params)
    run(optimizer, params, 0, 2)
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    reference = model()
    theirs = torch.optim.AdamW(reference.parameters())
    try:  # torch flattens numbers and tensors; a tuple of betas is refused by some versions
        get_optimizer_state_dict(reference, theirs, options=flat)
    except (NotImplementedError, KeyError, RuntimeError) as error:
        pytest.skip(f"torch's own AdamW: {error}")
    saved = get_optimizer_state_dict(source, optimizer, options=flat)
    target = model(1)
    target.load_state_dict(source.state_dict())
    others = list(target.parameters())
    other = make(name, others)
    set_optimizer_state_dict(target, other, optim_state_dict=saved, options=flat)
    run(optimizer, params, 2, 3)
    run(other, others, 2, 3)
    assert_same_bits(others, params)


# --- nothing moves --------------------------------------------------------------------------------

DECAYS = {
    f"{style}{' cautious' if cautious else ''}": (style, cautious)
    for style in ("decoupled", "independent", "l2")
    for cautious in (False, True)
    if not (style == "l2" and cautious)
}


@every_backend
@every_subject
def test_zero_lr_and_zero_gradients_move_nothing(name, backend):
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = make(name, params, **BACKENDS[backend])
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(9):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert_same_bits(params, before)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW", "RAdam", "Lion", "Ranger"])
def test_zero_lr_moves_nothing_under_any_decay(cls, decay):
    """Also constructed with 0, as a warm-up begins; independent decay says that it cannot."""
    style, cautious = DECAYS[decay]
    for start, now in ((0.0, 0.0), (0.1, 0.0)):
        if style == "independent" and start == 0.0:
            with pytest.raises(ValueError, match="independent"):
                getattr(thalweg, cls)(parameters(), lr=0.0, options=[opt.Decay(style)])
            continue
        params = parameters()
        before = [p.detach().clone() for p in params]
        options = [opt.Decay(style, cautious=cautious)]
        optimizer = getattr(thalweg, cls)(
            params, lr=start, weight_decay=0.1, options=options, foreach=False, fused=False
        )
        optimizer.param_groups[0]["lr"] = now
        for _ in range(7):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert_same_bits(params, before)


# --- averages -------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("name", LADEN)
def test_averaged_exchanges_values_and_gives_them_back(name, backend):
    optimizer, params = run_new(name, 7, **BACKENDS[backend])
    raw = [p.detach().clone() for p in params]
    averages = [optimizer.state[p]["average_ema"].clone() for p in params]
    addresses = [p.data_ptr() for p in params]
    assert not torch.equal(raw[0], averages[0])
    with optimizer.averaged():
        assert_same_bits(params, averages)
        assert [p.data_ptr() for p in params] == addresses
    assert_same_bits(params, raw)
    with pytest.raises(KeyError, match="validation failed"), optimizer.averaged():
        raise KeyError("validation failed")
    assert_same_bits(params, raw)
    assert [p.data_ptr() for p in params] == addresses
    whole, _ = run_new(name, 10, **BACKENDS[backend])
    run(optimizer, params, 7, 3)
    assert_same_bits(snapshot(optimizer), snapshot(whole))


def test_averaged_leaves_parameters_that_never_stepped():
    params = parameters()
    optimizer = make("laden adamw", params)
    for p, g in zip(params[1:], gradients(params, 0)[1:], strict=True):
        p.grad = g
    optimizer.step()
    start = params[0].detach().clone()
    with optimizer.averaged():
        assert torch.equal(params[0], start)
    assert torch.equal(params[0], start)


# --- skipped steps --------------------------------------------------------------------------------


def moving_state(optimizer):
    """Return all state but the count of skipped steps itself."""
    return [
        {k: v for k, v in state.items() if not k.endswith("skipped")}
        for state in snapshot(optimizer)["state"]
    ]


@every_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", LADEN)
def test_a_non_finite_gradient_leaves_the_whole_step_out(name, bad, backend):
    whole, whole_params = run_new(name, 7, **BACKENDS[backend])
    params = parameters()
    optimizer = make(name, params, **BACKENDS[backend])
    assert optimizer.skipped_steps == 0
    for t in range(7):
        if t in (0, 4):
            before = moving_state(optimizer) if t else None
            weights = [p.detach().clone() for p in params]
            for p, g in zip(params, gradients(params, 90), strict=True):
                p.grad = g
            params[2].grad[0, 1, 0, 1] = bad
            optimizer.step()
            assert_same_bits(params, weights)
            if before is not None:
                assert_same_bits(moving_state(optimizer), before)
        run(optimizer, params, t, 1)
    assert optimizer.skipped_steps == 2
    assert_same_bits(params, whole_params)
    assert_same_bits(moving_state(optimizer), moving_state(whole))


@every_backend
@pytest.mark.parametrize("name", PLAIN)
def test_without_the_option_a_nan_stays_where_it_is(name, backend):
    """A non-finite gradient is used as it is: its own element goes, the others do not."""
    if name in ("ranger", "adafactor", *BY_TENSOR):
        pytest.skip("a mean or norm carries a nan through the row or tensor")
    if name == "rprop":
        pytest.skip("the sign of nan is 0, as in torch: the element waits for two steps")
    params = parameters()
    optimizer = make(name, params, **BACKENDS[backend])
    for t in range(3):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = g
        if t == 1:
            params[1].grad[2, 3] = float("nan")
        optimizer.step()
    finite = torch.isfinite(params[1])
    if name == "signsgd":  # the sign of nan is 0 as in torch
        finite[2, 3] = False
    if name in ("lion", "signum"):  # here the momentum holds it for ever
        finite &= torch.isfinite(optimizer.state[params[1]]["exp_avg"])
    assert not finite[2, 3]
    assert finite.sum() == params[1].numel() - 1
    assert all(torch.isfinite(p).all() for i, p in enumerate(params) if i != 1)
