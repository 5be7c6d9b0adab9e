"""Every check comes before the first write: a step that raises has changed nothing."""

import pytest
import torch

from subjects import BACKENDS, draw, make, parameters, run, run_new
from thalweg.errors import ThalwegError
from trajectories import assert_same_bits, snapshot

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def spoil_sparse(optimizer, params):
    grad = params[-2].grad
    params[-2].grad = torch.sparse_coo_tensor(
        [[0]], grad[:1].clone(), grad.shape, check_invariants=True
    )

    def mend():
        params[-2].grad = grad

    return mend


def spoil_shape(optimizer, params):
    """The parameter was resized behind the gradient's back."""
    whole = params[1].data
    params[1].data = whole[:2]

    def mend():
        params[1].data = whole

    return mend


def spoil_group(key, value):
    def spoil(optimizer, params):
        group = optimizer.param_groups[-1]
        kept = group[key]
        group[key] = value

        def mend():
            group[key] = kept

        return mend

    return spoil


def spoil_group_without(key):
    def spoil(optimizer, params):
        group = optimizer.param_groups[-1]
        kept = group.pop(key)

        def mend():
            group[key] = kept

        return mend

    return spoil


def spoil_slot(optimizer, params):
    """A slot of another shape, put there by hand."""
    state = optimizer.state[params[1]]
    kept = dict(state)
    state["exp_avg"] = torch.zeros(3)

    def mend():
        state.clear()
        state.update(kept)

    return mend


SPOILS = {
    "sparse gradient": spoil_sparse,
    "parameter resized": spoil_shape,
    "lr text": spoil_group("lr", "fast"),
    "lr none": spoil_group("lr", None),
    "lr of two": spoil_group("lr", torch.tensor([0.1, 0.2])),
    "lr gone": spoil_group_without("lr"),
    "weight decay text": spoil_group("weight_decay", "some"),
    "one beta": spoil_group("betas", (0.9,)),
    "betas none": spoil_group("betas", None),
}


def two_groups(name, backend):
    """Two groups of two types: two tables, the first of which must not run before the second fits."""
    params = parameters(shapes=((7,), (6, 5)))
    params += parameters(torch.float64, shapes=((2, 3, 2, 2), (4, 3), (2,)))
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03125}]
    return params, make(name, groups, **BACKENDS[backend])


def spoiled_run(name, spoil, at, backend):
    """Run six steps; before step ``at`` one raises and is mended."""
    params, optimizer = two_groups(name, backend)
    for t in range(6):
        if t == at:
            generator = torch.Generator().manual_seed(t)
            for p in params:
                p.grad = draw(p.shape, p.dtype, generator)
            mend = spoil(optimizer, params)
            before = snapshot(optimizer)
            keys = set(optimizer.state)
            with pytest.raises((RuntimeError, TypeError, ValueError, KeyError)) as caught:
                optimizer.step()
            assert set(optimizer.state) == keys, "state was published before the step could fail"
            assert_same_bits(snapshot(optimizer)["state"], before["state"])
            assert_same_bits(snapshot(optimizer)["parameters"], before["parameters"])
            mend()
            assert isinstance(caught.value, ThalwegError), repr(caught.value)
        run(optimizer, params, t, 1)
    return params, snapshot(optimizer)


def undisturbed_run(name, backend):
    params, optimizer = two_groups(name, backend)
    run(optimizer, params, 0, 6)
    return params, snapshot(optimizer)


@every_backend
@pytest.mark.parametrize("at", [0, 3], ids=["first step", "fourth step"])
@pytest.mark.parametrize("case", SPOILS)
@pytest.mark.parametrize("name", ["adamw", "laden adamw", "ranger"])
def test_a_step_that_raises_leaves_all_as_it_was(name, case, at, backend):
    disturbed = spoiled_run(name, SPOILS[case], at, backend)
    assert_same_bits(disturbed, undisturbed_run(name, backend))


@every_backend
@pytest.mark.parametrize("name", ["adamw", "laden adamw", "lion"])
def test_a_wrong_slot_raises_before_anything_moves(name, backend):
    disturbed = spoiled_run(name, spoil_slot, 3, backend)
    assert_same_bits(disturbed, undisturbed_run(name, backend))


def test_a_bad_parameter_added_to_a_group_raises_before_anything_moves():
    """Meta tensors hold no numbers: the kernel that was asked for cannot run on them."""
    params = parameters()
    optimizer = make("adamw", params, fused=True)
    run(optimizer, params, 0, 2)
    ghost = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimizer.param_groups[0]["params"].append(ghost)
    ghost.grad = torch.empty(3, device="meta")
    before = snapshot(optimizer)["parameters"][:-1]
    with pytest.raises(RuntimeError, match="meta"):
        run(optimizer, params, 2, 1)
    assert_same_bits([p.detach() for p in params], before)
    optimizer.param_groups[0]["params"].pop()
    run(optimizer, params, 2, 2)
    _, whole = run_new("adamw", 4)
    assert_same_bits(params, whole)


def test_a_closure_that_raises_changes_nothing():
    optimizer, _ = run_new("laden adamw", 2)
    before = snapshot(optimizer)

    def closure():
        raise ZeroDivisionError("loss")

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert_same_bits(snapshot(optimizer), before)
