"""Wrappers across time and when misused: checkpoints, slow weights, what they refuse and how they say it."""

import copy
import gc
import weakref

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import thalweg
from subjects import clones, gradients, parameters, run
from test_drop_in_state import model, plain_data
from test_wrappers import BASES, WRAPPERS, build, closure_of, every_base, every_wrapper, walk
from thalweg import options as opt
from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError, StepError
from trajectories import assert_same_bits, through_bytes

PULLBACK = {
    **WRAPPERS,
    "pullback": lambda o: thalweg.Lookahead(o, k=3, momentum="pullback"),
    "reset": lambda o: thalweg.Lookahead(o, k=3, momentum="reset"),
}


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("base", ["thalweg AdamW", "torch SGD", "torch NAdam", "timm Lamb"])
@pytest.mark.parametrize("wrapper", PULLBACK)
def test_resume_at_any_step_is_exact(wrapper, base, at):
    """Between two syncs too, twice, and through a file that holds tensors and plain data only."""
    whole, params = parameters(), parameters()
    walk(PULLBACK[wrapper](BASES[base](whole)), whole, 0, at + 8)
    optimizer = PULLBACK[wrapper](BASES[base](params))
    walk(optimizer, params, 0, at)
    for t in (at, at + 4):
        saved = optimizer.state_dict()
        assert plain_data(saved)
        assert set(saved) == {"state", "param_groups"}
        params = clones(params)
        optimizer = PULLBACK[wrapper](BASES[base](params))
        optimizer.load_state_dict(through_bytes(saved))
        walk(optimizer, params, t, 4)
    assert_same_bits(params, whole)


@every_base
def test_resume_is_exact_around_every_base(base):
    whole, params = parameters(), parameters()
    walk(build("sam of lookahead", base, whole), whole, 0, 9)
    optimizer = build("sam of lookahead", base, params)
    walk(optimizer, params, 0, 4)
    others = clones(params)
    other = build("sam of lookahead", base, others)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    walk(other, others, 4, 5)
    assert_same_bits(others, whole)


def test_the_checkpoint_is_the_wrapped_ones_with_entries_added():
    params = parameters()
    optimizer = thalweg.Lookahead(torch.optim.AdamW(params), k=3, momentum="pullback")
    run(optimizer, params, 0, 4)
    saved = optimizer.state_dict()
    assert set(saved["state"][0]) == {
        *("step", "exp_avg", "exp_avg_sq"),
        *("lookahead_slow", "lookahead_step", "lookahead_exp_avg"),
    }
    assert saved["state"][0]["lookahead_step"] == 4
    assert saved["param_groups"][0]["lookahead_k"] == 3
    assert saved["state"][0].keys() == optimizer.state[params[0]].keys()


@every_wrapper
@every_base
def test_checkpoints_of_the_wrapped_one_load_and_begin_anew(wrapper, base):
    params = parameters()
    plain = BASES[base](params)
    walk(plain, params, 0, 4)
    others, wanted = clones(params), clones(params)
    other = build(wrapper, base, others)
    walk(other, others, 90, 2)
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    other.load_state_dict(copy.deepcopy(plain.state_dict()))
    inner = BASES[base](wanted)
    inner.load_state_dict(copy.deepcopy(plain.state_dict()))
    reference = WRAPPERS[wrapper](inner)
    walk(other, others, 4, 5)
    walk(reference, wanted, 4, 5)
    assert_same_bits(others, wanted)


@every_wrapper
@every_base
def test_the_wrapped_one_loads_a_wrappers_checkpoint(wrapper, base):
    params = parameters()
    optimizer = build(wrapper, base, params)
    walk(optimizer, params, 0, 4)
    others, wanted = clones(params), clones(params)
    plain, reference = BASES[base](others), BASES[base](wanted)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    inner = optimizer.base_optimizer
    inner = getattr(inner, "base_optimizer", inner)
    reference.load_state_dict(copy.deepcopy(inner.state_dict()))
    walk(plain, others, 4, 3)
    walk(reference, wanted, 4, 3)
    assert_same_bits(others, wanted)


def test_the_option_goes_on_with_the_wrappers_slow_weights():
    """They have the same names: strict=False, since the checkpoint does not name the option."""
    params, k = parameters(torch.float64), {"k": 3, "alpha": 0.25}
    optimizer = thalweg.Lookahead(thalweg.AdamW(params, lr=0.05), **k)
    run(optimizer, params, 0, 4)
    others = clones(params)
    other = thalweg.AdamW(others, lr=0.05, options=[opt.Lookahead(**k)])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=False)
    run(optimizer, params, 4, 5)
    run(other, others, 4, 5)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("module", [torch.optim, thalweg], ids=["torch", "ours"])
def test_the_wrapper_goes_on_with_the_options_slow_weights(module, at):
    """The option has no count of its own: the rule's is taken."""
    params = parameters(torch.float64)
    optimizer = thalweg.AdamW(params, lr=0.05, options=[opt.Lookahead(k=3)])
    run(optimizer, params, 0, at)
    others = clones(params)
    other = thalweg.Lookahead(module.AdamW(others, lr=0.05), k=3)
    loose = {} if module is torch.optim else {"strict": False}
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()), **loose)
    run(optimizer, params, at, 5)
    run(other, others, at, 5)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_a_step_that_ours_leaves_out_takes_nothing_from_the_wrapper():
    """The state is then the wrapper's alone, and saved and loaded as such."""
    params = parameters()
    skipping = thalweg.Lookahead(thalweg.AdamW(params, options=[opt.SkipNonFinite()]), k=3)
    for p in params:
        p.grad = torch.full_like(p, float("nan"))
    skipping.step()
    assert_same_bits(params, parameters())
    others = clones(params)
    other = thalweg.Lookahead(thalweg.AdamW(others, options=[opt.SkipNonFinite()]), k=3)
    other.load_state_dict(through_bytes(skipping.state_dict()))
    run(skipping, params, 0, 5)
    run(other, others, 0, 5)
    assert_same_bits(others, params)


@every_base
def test_a_checkpoint_loaded_into_the_wrapped_one_alone_is_noticed(base):
    """Slow weights of before would drag the loaded model back: they begin anew."""
    params, wanted = parameters(), parameters(seed=7)
    optimizer = build("lookahead", base, params)
    walk(optimizer, params, 0, 2)
    source = BASES[base](wanted)
    walk(source, wanted, 0, 2)
    saved = copy.deepcopy(source.state_dict())
    with torch.no_grad():
        for p, q in zip(params, wanted, strict=True):
            p.copy_(q)
    optimizer.base_optimizer.load_state_dict(saved)
    assert "lookahead_slow" not in optimizer.state_dict()["state"].get(0, {})
    fresh = BASES[base](wanted)
    fresh.load_state_dict(copy.deepcopy(saved))
    walk(optimizer, params, 2, 4)
    walk(WRAPPERS["lookahead"](fresh), wanted, 2, 4)
    assert_same_bits(params, wanted)


def test_numbers_follow_the_checkpoint_and_stay_where_it_has_none():
    source = parameters()
    saved = thalweg.Lookahead(torch.optim.SGD(source), k=9, alpha=0.25).state_dict()
    optimizer = thalweg.Lookahead(torch.optim.SGD(parameters()), k=3)
    optimizer.param_groups[0]["lookahead_k"] = 4
    optimizer.load_state_dict(torch.optim.SGD(parameters()).state_dict())
    assert optimizer.param_groups[0]["lookahead_k"] == 4
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lookahead_k"] == 9
    assert optimizer.param_groups[0]["lookahead_alpha"] == 0.25


@every_wrapper
def test_loading_copies_and_leaves_its_argument_alone(wrapper):
    params = parameters()
    optimizer = build(wrapper, "thalweg AdamW", params)
    walk(optimizer, params, 0, 4)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    others = clones(params)
    other = build(wrapper, "thalweg AdamW", others)
    other.load_state_dict(saved)
    walk(other, others, 4, 4)
    assert_same_bits(saved, before)
    assert saved["state"].keys() == before["state"].keys()
    assert saved["state"][0].keys() == before["state"][0].keys()


def test_state_dict_hooks_fire_once_on_each():
    params, seen = parameters(), []
    optimizer = build("lookahead", "torch AdamW", params)
    run(optimizer, params, 0, 1)
    for name, o in (("", optimizer), ("inner ", optimizer.base_optimizer)):
        o.register_state_dict_pre_hook(lambda o, n=name: seen.append(n + "save pre"))
        o.register_state_dict_post_hook(lambda o, d, n=name: seen.append(n + "save post"))
        o.register_load_state_dict_pre_hook(lambda o, d, n=name: seen.append(n + "load pre"))
        o.register_load_state_dict_post_hook(lambda o, n=name: seen.append(n + "load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    order = ["save pre", "inner save pre", "inner save post", "save post"]
    assert seen == [*order, *(x.replace("save", "load") for x in order)]


def test_state_dict_hooks_may_replace_what_passes():
    params = parameters()
    optimizer = build("lookahead", "torch AdamW", params)
    run(optimizer, params, 0, 1)
    plain = optimizer.state_dict()
    optimizer.register_state_dict_post_hook(lambda o, d: {"mine": d})
    optimizer.register_load_state_dict_pre_hook(lambda o, d: d["mine"])
    saved = copy.deepcopy(optimizer.state_dict())
    assert set(saved) == {"mine"}
    optimizer.load_state_dict(saved)
    assert_same_bits(optimizer.state_dict()["mine"]["state"], plain["state"])


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("base", ["thalweg SGD", "torch AdamW", "torch SGD"])
@pytest.mark.parametrize("wrapper", PULLBACK)
def test_distributed_checkpoints(wrapper, base, flatten):
    source = model()
    params = list(source.parameters())
    optimizer = PULLBACK[wrapper](BASES[base](params))
    walk(optimizer, params, 0, 4)
    flat = StateDictOptions(flatten_optimizer_state_dict=flatten)
    saved = through_bytes(get_optimizer_state_dict(source, optimizer, options=flat))
    target = model(1)
    target.load_state_dict(source.state_dict())
    others = list(target.parameters())
    other = PULLBACK[wrapper](BASES[base](others))
    set_optimizer_state_dict(target, other, optim_state_dict=saved, options=flat)
    assert_same_bits(others, params)
    walk(optimizer, params, 4, 4)
    walk(other, others, 4, 4)
    assert_same_bits(others, params)


# --- slow weights ---------------------------------------------------------------------------------


@every_base
def test_averaged_shows_the_slow_weights_and_gives_the_fast_ones_back(base):
    params, whole = parameters(), parameters()
    optimizer = build("lookahead", base, params)
    walk(optimizer, params, 0, 3)
    slow = clones(params)  # a sync has just been
    walk(optimizer, params, 3, 2)
    fast, addresses = clones(params), [p.data_ptr() for p in params]
    assert not torch.equal(fast[0], slow[0])
    with optimizer.averaged():
        assert_same_bits(params, slow)
        assert [p.data_ptr() for p in params] == addresses
    with pytest.raises(KeyError, match="validation failed"), optimizer.averaged():
        raise KeyError("validation failed")
    assert_same_bits(params, fast)
    assert [p.data_ptr() for p in params] == addresses
    walk(optimizer, params, 5, 4)
    walk(build("lookahead", base, whole), whole, 0, 9)
    assert_same_bits(params, whole)


def test_averaged_leaves_parameters_that_never_stepped():
    params = parameters()
    optimizer = build("lookahead", "torch AdamW", params)
    params[1].grad = gradients(params, 0)[1]
    optimizer.step()
    fast = clones(params)
    with optimizer.averaged():
        assert_same_bits(params, parameters())
    assert_same_bits(params, fast)


@pytest.mark.parametrize(
    "act",
    [
        lambda o: o.step(),
        lambda o: o.state_dict(),
        lambda o: o.load_state_dict({}),
        lambda o: copy.deepcopy(o),
        lambda o: o.averaged().__enter__(),
    ],
    ids=["step", "state_dict", "load_state_dict", "deepcopy", "averaged"],
)
def test_inside_averaged_and_after_first_step_what_would_go_wrong_is_refused(act):
    params = parameters()
    optimizer = build("lookahead", "torch SGD", params)
    run(optimizer, params, 0, 2)
    before = clones(params)
    with optimizer.averaged(), pytest.raises(StepError, match=r"inside averaged\(\)"):
        act(optimizer)
    assert_same_bits(params, before)


@pytest.mark.parametrize(
    "act",
    [
        lambda o: o.step(lambda: 0.0),
        lambda o: o.state_dict(),
        lambda o: o.load_state_dict({}),
        lambda o: copy.deepcopy(o),
        lambda o: o.first_step(),
    ],
    ids=["step", "state_dict", "load_state_dict", "deepcopy", "first_step"],
)
def test_at_the_climb_what_would_go_wrong_is_refused(act):
    params = parameters()
    optimizer = build("sam", "torch SGD", params)
    closure_of(optimizer, params, 0)()
    before = clones(params)
    optimizer.first_step()
    assert not torch.equal(params[0], before[0])
    with pytest.raises(StepError, match=r"after first_step\(\)"):
        act(optimizer)
    optimizer.zero_grad()
    optimizer.second_step()
    assert_same_bits(params, before)


def test_sam_around_schedule_free_and_its_modes():
    """What the wrapped one has, `eval()` and `train()`, is reached through the wrapper."""
    params = parameters()
    optimizer = thalweg.SAM(thalweg.AdamWScheduleFree(params, lr=0.05))
    walk(optimizer, params, 0, 3)
    raw = clones(params)
    optimizer.eval()
    averages = clones(params)
    assert not torch.equal(params[0], raw[0])
    with pytest.raises(StepError):
        walk(optimizer, params, 3, 1)
    assert_same_bits(params, averages)
    optimizer.train()
    assert_same_bits(params, raw)
    walk(optimizer, params, 3, 1)
    assert not torch.equal(params[0], raw[0])


def test_a_closure_that_fails_at_the_climb_leaves_the_weights_as_they_were():
    params, calls = parameters(), []
    optimizer = build("sam", "thalweg AdamW", params)
    before = clones(params)

    def closure():
        if calls:
            assert not torch.equal(params[0], before[0])
            raise KeyError("out of data")
        calls.append(1)
        return closure_of(optimizer, params, 0)()

    with pytest.raises(KeyError, match="out of data"):
        optimizer.step(closure)
    assert_same_bits(params, before)
    wanted = parameters()
    walk(optimizer, params, 0, 3)
    walk(build("sam", "thalweg AdamW", wanted), wanted, 0, 3)
    assert_same_bits(params, wanted)


def test_a_base_that_fails_begins_no_cycle():
    """Its retry equals an undisturbed run."""

    class Failing(torch.optim.SGD):
        fail = True

        def step(self, closure=None):
            if self.fail:
                raise MemoryError("no memory")
            return super().step(closure)

    params, wanted = parameters(), parameters()
    optimizer = thalweg.Lookahead(Failing(params, lr=0.1), k=2)
    with pytest.raises(MemoryError):
        run(optimizer, params, 0, 1)
    assert optimizer.state_dict()["state"] == {}
    optimizer.base_optimizer.fail = False
    run(optimizer, params, 0, 3)
    run(thalweg.Lookahead(torch.optim.SGD(wanted, lr=0.1), k=2), wanted, 0, 3)
    assert_same_bits(params, wanted)


@every_wrapper
def test_nothing_keeps_a_wrapper_alive(wrapper):
    params = parameters()
    optimizer = build(wrapper, "torch AdamW", params)
    walk(optimizer, params, 0, 3)
    inner, gone = optimizer.base_optimizer, weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()
    assert inner.param_groups


# --- what is refused ------------------------------------------------------------------------------


def sgd():
    return torch.optim.SGD(parameters(), lr=0.1)


class NoInit(torch.optim.Optimizer):
    def __init__(self, params):
        self.param_groups = [{"params": list(params)}]

    def step(self, closure=None):
        pass


class NoClosure(torch.optim.SGD):
    def step(self):
        pass


class Deaf(torch.optim.SGD):
    def step(self, closure=None):
        pass


class OwnLayout(torch.optim.SGD):
    def state_dict(self):
        return {"base": super().state_dict()}


class TupleGroups(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params)
        self.param_groups[0]["params"] = tuple(self.param_groups[0]["params"])


class Duck:
    param_groups, state, defaults = (), {}, {}


REFUSED = {
    "class": (lambda w: w(torch.optim.SGD), TypeError, r"the class SGD: write \w+\(SGD\("),
    "duck": (lambda w: w(Duck()), TypeError, "Duck is none: derive it from torch.optim.Optimizer"),
    "parameters": (lambda w: w(parameters()), TypeError, "list is none"),
    "no init": (
        lambda w: w(NoInit(parameters())),
        TypeError,
        r"NoInit: it lacks defaults, state, _optimizer_step_pre_hooks.*call super\(\).__init__",
    ),
    "groups": (
        lambda w: w(TupleGroups(parameters())),
        TypeError,
        r"param_groups\[0\] is no dict with a list 'params'",
    ),
    "twice": (lambda w: w(w(sgd())), ValueError, "is around this optimizer already"),
    "unknown": (lambda w: w(sgd(), lr=0.1), TypeError, "unexpected keyword argument 'lr'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("wrapper", [thalweg.Lookahead, thalweg.SAM])
def test_what_cannot_be_wrapped_is_refused_with_what_it_lacks(wrapper, case):
    make, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        make(wrapper)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: thalweg.Lookahead(sgd(), k=0), ArgumentError, r"Invalid k value: 0. .*\[1, inf\)"),
        (lambda: thalweg.Lookahead(sgd(), k=2.5), ArgumentError, "Invalid k value: 2.5"),
        (lambda: thalweg.Lookahead(sgd(), alpha=1.5), ArgumentError, "Invalid alpha value: 1.5"),
        (
            lambda: thalweg.Lookahead(sgd(), momentum="pull"),
            ArgumentError,
            "Invalid momentum value: 'pull'. Lookahead needs one of 'keep', 'reset', 'pullback'",
        ),
        (lambda: thalweg.SAM(sgd(), rho=-0.1), ArgumentError, "Invalid rho value: -0.1"),
        (lambda: thalweg.SAM(sgd(), eta=-1), ArgumentError, "Invalid eta value: -1"),
        (lambda: thalweg.SAM(sgd(), adaptive=3), ArgumentError, "Invalid adaptive value: 3"),
        (
            lambda: thalweg.SAM(torch.optim.LBFGS(parameters())),
            ArgumentTypeError,
            r"LBFGS.step\(\) needs a closure",
        ),
        (
            lambda: thalweg.Lookahead(thalweg.SAM(sgd())),
            ArgumentError,
            r"SAM must be the outermost wrapper: write SAM\(Lookahead\(optimizer\)\)",
        ),
        (
            lambda: thalweg.Lookahead(thalweg.Ranger(parameters())),
            ArgumentError,
            "Ranger has the option lookahead already",
        ),
        (
            lambda: thalweg.Lookahead(thalweg.AdamWScheduleFree(parameters())),
            ArgumentError,
            "cannot go around AdamWScheduleFree: its option schedule_free excludes lookahead",
        ),
    ],
)
def test_arguments_out_of_range(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_refused_wrapper_leaves_the_optimizer_as_it_was():
    base = torch.optim.LBFGS(parameters())
    before = set(base.param_groups[0])
    with pytest.raises(TypeError):
        thalweg.SAM(base)
    assert set(base.param_groups[0]) == before


@pytest.mark.parametrize("number", [("lookahead_k", -1), ("lookahead_alpha", "x")])
def test_numbers_that_become_nonsense_are_refused_before_the_step(number):
    params = parameters()
    optimizer = build("lookahead", "torch SGD", params)
    run(optimizer, params, 0, 2)
    saved, before = copy.deepcopy(optimizer.state_dict()), clones(params)
    saved["param_groups"][0][number[0]] = number[1]
    with pytest.raises(ValueError, match=r"Invalid .* value: .*group 0 of the checkpoint"):
        optimizer.load_state_dict(saved)
    optimizer.param_groups[0][number[0]] = number[1]
    with pytest.raises(ValueError, match=r"Invalid .* value: .*group 0"):
        run(optimizer, params, 2, 1)
    assert_same_bits(params, before)


@pytest.mark.parametrize("base", ["torch AdamW", "thalweg AdamW"])
def test_checkpoints_that_do_not_fit_change_nothing(base):
    params = parameters()
    optimizer = build("lookahead", base, params)
    run(optimizer, params, 0, 4)
    before = copy.deepcopy(optimizer.state_dict())
    wrong = copy.deepcopy(before)
    wrong["state"][1]["lookahead_slow"] = torch.zeros(5)
    with pytest.raises(CheckpointError, match=r"'lookahead_slow' has shape \(5,\).*\(6, 5\)"):
        optimizer.load_state_dict(wrong)
    wrong["state"][1]["lookahead_slow"] = before["state"][1]["lookahead_slow"]
    wrong["state"][1]["lookahead_step"] = "four"
    with pytest.raises(CheckpointError, match=r"'lookahead_step' is 'four'; it must be"):
        optimizer.load_state_dict(wrong)
    fewer = build("lookahead", base, parameters()[:2])
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(fewer.state_dict())
    with pytest.raises(CheckpointError, match=r"lacks 'state' and 'param_groups'.*has 'model'"):
        optimizer.load_state_dict({"model": 1})
    assert_same_bits(optimizer.state_dict(), before)


def test_steps_that_cannot_be():
    params = parameters()
    optimizer = build("sam", "torch SGD", params)
    closure_of(optimizer, params, 0)()
    before = clones(params)
    with pytest.raises(StepError, match=r"SAM.step\(\) needs a closure"):
        optimizer.step()
    with pytest.raises(StepError, match=r"second_step\(\) without first_step\(\)"):
        optimizer.second_step()
    deaf = thalweg.Lookahead(Deaf(params))
    with pytest.raises(StepError, match=r"Deaf.step\(closure\) never called the closure"):
        deaf.step(closure_of(deaf, params, 0))
    without = thalweg.Lookahead(NoClosure(params))
    with pytest.raises(StepError, match=r"NoClosure.step\(\) lacks the argument closure=None"):
        without.step(closure_of(without, params, 0))
    own = thalweg.Lookahead(OwnLayout(params))
    with pytest.raises(CheckpointError, match=r"OwnLayout.state_dict\(\) lacks 'state'.*'base'"):
        own.state_dict()
    assert_same_bits(params, before)


@pytest.mark.parametrize("momentum", ["reset", "pullback"])
def test_momentum_that_is_not_there(momentum):
    params = parameters()
    optimizer = thalweg.Lookahead(torch.optim.Adagrad(params), momentum=momentum)
    with pytest.raises(StepError, match=r"needs one of 'momentum_buffer', 'exp_avg'.* 'sum'.*keep"):
        run(optimizer, params, 0, 1)


def test_sam_refuses_sparse_gradients_and_lookahead_takes_them():
    table = torch.nn.Embedding(5, 3, sparse=True)
    for wrapper in (thalweg.Lookahead, thalweg.SAM):
        optimizer = wrapper(torch.optim.SGD(table.parameters(), lr=0.1))

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = table(torch.tensor([1, 1, 4])).sum()
            loss.backward()
            return loss

        before = clones(table.parameters())
        if wrapper is thalweg.SAM:
            with pytest.raises(StepError, match="does not support sparse gradients"):
                optimizer.step(closure)
            assert_same_bits(list(table.parameters()), before)
        else:
            optimizer.step(closure)
            assert not torch.equal(table.weight, before[0])
