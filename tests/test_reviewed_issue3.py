"""What hostile reviews of the algorithms, wrappers, checkpoints and catalogue found."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch

import thalweg
from subjects import clones, gradients, parameters, run
from thalweg import options as opt
from thalweg.engine.rule import find_rule
from thalweg.errors import CheckpointError, StepError, ThalwegError
from thalweg.options.decay import STYLES
from trajectories import assert_same_bits, snapshot


def decayed(optimizer, p, steps=10) -> bool:
    """Whether weights shrink where the loss has no gradient."""
    before = p.detach().clone()
    for _ in range(steps):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    return bool((p.detach().abs() < before.abs()).all())


OWN = [(name, None) for name in thalweg.list_optimizers() if name not in ("lbfgs", "sparseadam")]
CHOSEN = [(n, s) for n in ("sgd", "adan", "lamb", "novograd") for s in STYLES]
CHOSEN += [(n, f"cautious {s}") for n in ("sgd", "adan") for s in ("decoupled", "proximal")]


@pytest.mark.parametrize(("name", "style"), [*OWN, *CHOSEN])
def test_under_schedule_free_weights_decay_or_the_style_is_refused(name, style) -> None:
    """Adan's proximal decay acts at the station that schedule-free replaces, and was left out in silence."""
    p = torch.nn.Parameter(torch.full((3, 3), 2.0))
    numbers = {"lr": 0.1, "weight_decay": 0.5, "foreach": False}
    if name == "radamschedulefree":
        numbers["silent_sgd_phase"] = False
    options = [opt.Decay(style.split()[-1], cautious=" " in style)] if style else []
    options += [opt.ScheduleFree()] if "schedulefree" not in name else []
    done = style in ("l2", "decoupled", "direction") or (style is None and name != "adan")
    if done and name != "ranger":  # which has Lookahead
        assert decayed(thalweg.create_optimizer([p], name, options=options, **numbers), p)
    else:
        with pytest.raises(ValueError, match=r"ScheduleFree decays|exclude each other"):
            thalweg.create_optimizer([p], name, options=options, **numbers)


def test_adans_own_decay_is_refused_and_another_is_done() -> None:
    (p, *_) = parameters()
    with pytest.raises(ValueError, match=r"proximal decay of adan .* choose options=\[Decay\("):
        thalweg.create_optimizer([p], "adan + schedule_free", lr=0.1, weight_decay=0.5)
    optimizer = thalweg.create_optimizer(
        [p], "adan + decay('decoupled') + schedule_free", lr=0.1, weight_decay=0.5
    )
    assert decayed(optimizer, p)


# --- wrappers -------------------------------------------------------------------------------------


AROUND = {
    "lookahead of average": lambda p: thalweg.Lookahead(
        thalweg.AdamW(p, lr=0.5, options=[opt.Average(0.9)]), k=4
    ),
    "sam of schedule-free": lambda p: thalweg.SAM(thalweg.SGDScheduleFree(p, lr=0.5)),
    "sam of lookahead of average": lambda p: thalweg.SAM(
        thalweg.Lookahead(thalweg.AdamW(p, lr=0.5, options=[opt.Average(0.9)]), k=4)
    ),
}
MODES = {
    "eval": lambda o: o.eval(),
    "train": lambda o: o.train(),
    "averaged": lambda o: o.averaged().__enter__(),
}


def stirred(make):
    params = parameters()
    optimizer = make(params)
    for t in range(3):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = g
        if isinstance(optimizer, thalweg.SAM):
            optimizer.first_step()
        optimizer.step()
    for p in params:  # no rule moves these, but for what it averages
        p.grad = None
    return params, optimizer


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("around", AROUND)
def test_modes_of_the_wrapped_one_wait_until_the_weights_are_back(around, how) -> None:
    """They went past the wrapper: eval() kept the climb or the slow weights for train() to bring back."""
    params, optimizer = stirred(AROUND[around])
    before = clones(params)
    if "sam" in around:
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.first_step()
        climbed = clones(params)
        with pytest.raises(StepError, match=r"after first_step\(\)"):
            MODES[how](optimizer)
        assert_same_bits(params, climbed)
        for p in params:
            p.grad = None
        optimizer.second_step()
        assert_same_bits(params, before)
    if "lookahead" in around:
        inner = optimizer if "sam" not in around else optimizer.base_optimizer
        with inner.averaged(), pytest.raises(StepError, match=r"inside averaged\(\)"):
            MODES[how](optimizer)
        assert_same_bits(params, before)
    optimizer.eval()
    assert not torch.equal(params[0], before[0])
    optimizer.train()
    assert_same_bits(params, before)


def test_sam_climbs_from_weights_and_from_nothing_else() -> None:
    params, optimizer = stirred(AROUND["sam of schedule-free"])
    before = clones(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.eval()
    with pytest.raises(StepError, match=r"first_step\(\) while the parameters hold their averages"):
        optimizer.first_step()
    with pytest.raises(StepError, match=r"step\(\) while the parameters hold their averages"):
        optimizer.step(lambda: pytest.fail("evaluated for a step that is refused"))
    optimizer.train()
    assert_same_bits(params, before)
    params, optimizer = stirred(AROUND["sam of lookahead of average"])
    with (
        optimizer.averaged(),
        pytest.raises(StepError, match=r"first_step\(\) inside averaged\(\)"),
    ):
        optimizer.first_step()


def test_modes_are_there_where_the_wrapped_one_has_them() -> None:
    assert not hasattr(thalweg.SAM(torch.optim.SGD(parameters())), "eval")
    assert not hasattr(thalweg.Lookahead(torch.optim.SGD(parameters())), "train")


@pytest.mark.parametrize("wrap", [thalweg.Lookahead, thalweg.SAM])
def test_a_wrapper_around_torchs_shares_no_tensor_with_what_it_loads(wrap) -> None:
    """torch's load_state_dict keeps the tensors that it is given."""
    source = parameters()
    optimizer = wrap(torch.optim.Adam(source, lr=0.1))
    for p, g in zip(source, gradients(source, 0), strict=True):
        p.grad = g
    optimizer.base_optimizer.step()
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    params = parameters()
    other = wrap(torch.optim.Adam(params, lr=0.1))
    other.load_state_dict(saved)
    for p, g in zip(params, gradients(params, 1), strict=True):
        p.grad = g
    other.base_optimizer.step()
    assert_same_bits(saved, kept)


class PlainDict(torch.optim.SGD):
    """Its state makes no entries by itself."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.state = {}


class Forgetful(torch.optim.SGD):
    """Its state is made anew in each step."""

    def step(self, closure=None):
        self.state.clear()
        return super().step(closure)


class Wiping(torch.optim.SGD):
    """Its entries are emptied in each step."""

    def step(self, closure=None):
        for entry in self.state.values():
            entry.clear()
        return super().step(closure)


@pytest.mark.parametrize("cls", [PlainDict, Forgetful, Wiping])
def test_lookahead_keeps_its_own_whatever_the_base_does_with_its_state(cls) -> None:
    params, plain = parameters(), parameters()
    odd = thalweg.Lookahead(cls(params) if cls is PlainDict else cls(params, lr=0.1), k=3)
    usual = thalweg.Lookahead(torch.optim.SGD(plain, lr=0.1), k=3)
    for t in range(7):
        for each in (params, plain):
            for p, g in zip(each, gradients(each, t), strict=True):
                p.grad = g
        odd.step()
        usual.step()
    assert_same_bits(params, plain)


def test_state_that_is_no_mapping_is_refused_at_once() -> None:
    base = torch.optim.SGD(parameters(), lr=0.1)
    base.state = []
    with pytest.raises(TypeError, match="state is a list, which lacks entries by parameter"):
        thalweg.Lookahead(base)


# --- checkpoints of another algorithm -------------------------------------------------------------

TORCHS = ["SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "Adamax", "NAdam", "ASGD", "Rprop"]
TORCHS += ["RAdam", "AdamW", "Adafactor", "Muon"]
OF_ADAM = {"Adam", "AdamW", "LAMB"}
ALIKE = {
    "Muon": {"Muon", "MuonAdamW"},
    "Adam": OF_ADAM,
    "AdamW": OF_ADAM,
    "RAdam": OF_ADAM | {"ADOPT", "AdaBound", "RAdam", "Ranger", "StableAdamW"},
}
"""Whose state has the same entries, of the same kinds, and which have every number of its groups."""


def stepped(cls, **more):
    params = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(5, 2))]
    flags = {"foreach": False} if cls.__module__.startswith("thalweg") else {}
    optimizer = cls(params, **more, **flags)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("theirs", TORCHS)
def test_torchs_checkpoints_load_where_the_state_is_of_that_kind_and_nowhere_else(theirs) -> None:
    """Adam's went into Lion without a word, with Adam's lr and a second moment that nothing reads."""
    more = {"momentum": 0.9} if theirs == "SGD" else {}
    saved = stepped(getattr(torch.optim, theirs), **more).state_dict()
    for name in thalweg.optim.__all__:
        if name in ("LBFGS", "SparseAdam"):
            continue
        other = stepped(getattr(thalweg, name))
        before = snapshot(other)
        if name in ALIKE.get(theirs, {theirs}):
            other.load_state_dict(copy.deepcopy(saved))
        else:
            with pytest.raises(CheckpointError, match="another optimizer's") as refused:
                other.load_state_dict(copy.deepcopy(saved))
            assert len(str(refused.value)) < 400
            assert_same_bits(snapshot(other), before)
        other.load_state_dict(copy.deepcopy(saved), strict=False)
        declared = find_rule(other.param_groups[0]["rule"]).names()
        for entries in other.state.values():
            assert all(key in declared or key.startswith(("step", "lookahead")) for key in entries)
        other.step()


def test_what_is_missing_and_unexpected_is_listed() -> None:
    saved = stepped(torch.optim.Adam).state_dict()
    with pytest.raises(CheckpointError, match=r"alone has 'exp_avg_sq' for .* strict=False"):
        stepped(thalweg.Lion).load_state_dict(saved)
    with pytest.raises(
        CheckpointError, match="alone has 'exp_avg' and has no 'exp_avg_fast', 'exp"
    ):
        stepped(thalweg.AdEMAMix).load_state_dict(saved)
    with pytest.raises(CheckpointError, match="alone has 'exp_avg_sq' for"):
        stepped(thalweg.NovoGrad).load_state_dict(saved)
    unstepped = torch.optim.Adam([torch.nn.Parameter(torch.ones(3, 4)) for _ in "ab"]).state_dict()
    with pytest.raises(CheckpointError, match=r"betas=\(0.9, 0.999\), where this optimizer has 3"):
        stepped(thalweg.AdEMAMix).load_state_dict(unstepped)
    lbfgs = thalweg.LBFGS([torch.nn.Parameter(torch.ones(3, 4)) for _ in "ab"])
    with pytest.raises(CheckpointError, match="no 'func_evals'"):
        lbfgs.load_state_dict(saved)


@pytest.mark.parametrize("loose", [{}, {"strict": False}])
def test_what_a_user_adds_to_our_state_comes_along(loose) -> None:
    optimizer = stepped(thalweg.Adam)
    for entries in optimizer.state.values():
        entries["mine"] = torch.ones(2)
    other = stepped(thalweg.Adam)
    other.load_state_dict(optimizer.state_dict(), **loose)
    assert all("mine" in entries for entries in other.state.values())


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion"])
@pytest.mark.parametrize("at", [2, 4])
def test_the_option_and_the_wrapper_take_each_others_checkpoints(name, at) -> None:
    """They keep the same numbers under the same names; only who is named differed."""
    cls, k = getattr(thalweg, name), {"k": 3, "alpha": 0.25}
    makers = {
        "option": lambda p: cls(p, lr=0.01, options=[opt.Lookahead(**k)]),
        "wrapper": lambda p: thalweg.Lookahead(cls(p, lr=0.01), **k),
    }
    for before, after in (("option", "wrapper"), ("wrapper", "option")):
        params = parameters(torch.float64)
        optimizer = makers[before](params)
        run(optimizer, params, 0, at)
        others = clones(params)
        other = makers[after](others)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        run(optimizer, params, at, 5)
        run(other, others, at, 5)
        for p, q in zip(params, others, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_a_wrapper_that_came_later_counts_otherwise_than_its_option_would() -> None:
    params = parameters()
    base = thalweg.AdamW(params, lr=0.01)
    run(base, params, 0, 2)
    optimizer = thalweg.Lookahead(base, k=3)
    run(optimizer, params, 2, 2)
    other = thalweg.AdamW(clones(params), lr=0.01, options=[opt.Lookahead(k=3)])
    with pytest.raises(CheckpointError, match=r"lookahead has counted 2 steps .* optimizer 4"):
        other.load_state_dict(optimizer.state_dict())
    other.load_state_dict(optimizer.state_dict(), strict=False)


# --- numbers and choices --------------------------------------------------------------------------


def matrix() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2, 2))


SEVERAL = {"betas", "etas", "step_sizes", "ns_coefficients"}


@pytest.mark.parametrize("name", thalweg.optim.__all__)
def test_every_argument_refuses_what_it_cannot_be(name) -> None:
    """Also positionally, and before the first step, in a sentence of ours."""
    cls = getattr(thalweg, name)
    for argument, parameter in inspect.signature(cls).parameters.items():
        bad = []
        if argument in SEVERAL:
            bad = [0.9, None, "x", (0.9,), (0.1,) * 7, ("a", "b", "c")]
        elif isinstance(parameter.default, bool):
            bad = ["no", None, 2]
        elif isinstance(parameter.default, (int, float)):
            bad = ["x", None, math.nan, -math.inf]
            takes_inf = argument in {"d", "growth_rate", "t0", "max_grad_norm", "clip_thresh"}
            bad += [] if takes_inf else [math.inf]
        for value in bad:
            with pytest.raises(ThalwegError, match=r"Invalid|should be|must be|numbers|Number of"):
                cls([matrix()], **{argument: value})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: thalweg.Muon([matrix()], eps=-1), r"Invalid eps value: -1. Muon needs \[0, inf\)"),
        (lambda: thalweg.Muon([matrix()], ns_steps=-3), r"ns_steps value: -3.*\[0, 100\), whole"),
        (lambda: thalweg.Muon([matrix()], ns_steps=2.5), "ns_steps value: 2.5"),
        (lambda: thalweg.Muon([matrix()], ns_steps=100), "Number of steps must be less than 100"),
        (lambda: thalweg.Muon([matrix()], nesterov="no"), "nesterov value: 'no'.*True or False"),
        (
            lambda: thalweg.Muon([{"params": [matrix()], "nesterov": "no"}]),
            "Invalid nesterov value: 'no'. Muon needs True or False, group 0",
        ),
        (
            lambda: thalweg.AdaBelief([matrix()], weight_decouple="no"),
            "Invalid weight_decouple value: 'no'. AdaBelief needs True or False",
        ),
        (
            lambda: thalweg.AdamWScheduleFree([matrix()], betas=0.9),
            r"betas=0.9; AdamWScheduleFree takes 2 numbers, as in betas=\(0.9, 0.999\)",
        ),
        (
            lambda: thalweg.AdamWScheduleFree([{"params": [matrix()], "betas": 0.9}]),
            "betas=0.9; AdamWScheduleFree takes 2 numbers",
        ),
        (lambda: thalweg.Adam([{"params": [matrix()], "betas": 0.9}]), "betas=0.9; Adam takes 2"),
        (lambda: thalweg.SGD([matrix()], lr=math.inf), r"learning rate: inf. SGD needs \[0, inf\)"),
        (lambda: thalweg.SGD([matrix()], maximize="no"), "Invalid maximize value: 'no'"),
        (lambda: thalweg.SGD([matrix()], fused="no"), "Invalid fused value: 'no'"),
        (
            lambda: thalweg.create_optimizer(torch.nn.Linear(2, 2), "adamw", groups=lambda m: None),
            "returned None; it returns groups",
        ),
        (lambda: thalweg.create_optimizer([matrix()], "adamw(params=3)"), "argument 'params'"),
        (lambda: thalweg.create_optimizer([matrix()], "adamw(lr=1e-3, lr=2)"), "lr stands twice"),
        (
            lambda: thalweg.create_optimizer([matrix()], "adamw + lookahead(kk=5)"),
            "'kk'. Did you mean 'k'",
        ),
        (lambda: thalweg.create_optimizer([matrix()], "adamw" + " + cautious" * 3000), "characters"),
        (lambda: thalweg.create_optimizer([matrix()], "adamw" + "(" * 900), "does not read as"),
        (lambda: thalweg.AMSBound([matrix()], lr=0.0), "the bounds are relative to"),
        (
            lambda: thalweg.Lookahead(torch.optim.SGD([matrix()])).add_param_group(
                {"params": [matrix()], "lookahead_kk": 0}
            ),
            "group 1 of Lookahead .*'lookahead_kk'. Did you mean 'lookahead_k'",
        ),
        (
            lambda: thalweg.SAM(torch.optim.SGD([{"params": [matrix()], "sam_rhoo": 0}])),
            "'sam_rhoo'. Did you mean 'sam_rho'",
        ),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_is_allowed(make, sentence) -> None:
    with pytest.raises(ThalwegError, match=sentence):
        make()


def test_infinity_stays_where_it_stands_for_never() -> None:
    thalweg.ASGD([matrix()], t0=math.inf)
    thalweg.Rprop([matrix()], step_sizes=(1e-6, math.inf))
    thalweg.SGD([matrix()], options=[opt.ClipNorm(math.inf), opt.ClipValue(math.inf)])


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_everything_that_can_be_passed_says_what_is_allowed(name) -> None:
    info = thalweg.optimizer_info(name)
    assert all(a.range for a in info.arguments), [a for a in info.arguments if not a.range]
    names = [a.name for a in info.arguments if a.passed]
    assert len(names) == len(set(names))


def test_lbfgs_keeps_its_whole_history() -> None:
    for size in (3, 5):
        p = torch.nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
        optimizer = thalweg.LBFGS([p], history_size=size)
        for _ in range(3):
            optimizer.step(lambda p=p: rosenbrock(p))
        held = sum(
            x.numel() * x.element_size()
            for v in optimizer.state[p].values()
            for x in (v if isinstance(v, list) else [v])
            if isinstance(x, torch.Tensor) and x.numel() > 1
        )
        said = thalweg.optimizer_info(f"lbfgs(history_size={size})").state_bytes
        assert said == held / p.numel()
    assert thalweg.optimizer_info("lbfgs").state_bytes > 800


def rosenbrock(p):
    p.grad = None
    x, y = p[:, :2], p[:, 2:]
    loss = ((1 - x) ** 2 + 100 * (y - x * x) ** 2).sum()
    loss.backward()
    return loss


def test_formulas_call_a_number_by_its_argument() -> None:
    for name in ("novograd", "lars", "stableadamw", "adamwschedulefree"):
        assert "_weight_decay" not in thalweg.optimizer_info(name).formula
        assert "weight_decay" in thalweg.optimizer_info(name).formula


@pytest.mark.parametrize(
    ("name", "said"),
    [("LAMB", "LAMB does"), ("Ranger", "Ranger does"), ("AdamW", "Adam does not .*SparseAdam")],
)
def test_sparse_gradients_are_refused_by_who_refuses_them(name, said) -> None:
    p = matrix()
    p.grad = torch.ones(2, 2).to_sparse(1)
    with pytest.raises(StepError, match=said):
        getattr(thalweg, name)([p]).step()


# --- SAM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1.0, 1e25, 1e37])
def test_the_climb_is_as_long_whatever_the_size_of_the_gradients(size, adaptive) -> None:
    p = torch.nn.Parameter(torch.full((3, 3), 0.99 if adaptive else 0.0))
    optimizer = thalweg.SAM(torch.optim.SGD([p]), rho=0.5, adaptive=adaptive)
    p.grad = torch.full((3, 3), size)
    before = p.detach().clone()
    optimizer.first_step()
    assert (p.detach() - before).norm().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("base", [thalweg.SGD, torch.optim.SGD])
def test_unscaling_before_the_climb_is_refused(base) -> None:
    """The scaler believes the second gradients unscaled: they were applied as many times too large."""
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    params = parameters()
    optimizer = thalweg.SAM(base(params, lr=0.1))

    def backward():
        scaler.scale(sum((p * p).sum() for p in params)).backward()

    before = clones(params)
    backward()
    scaler.unscale_(optimizer)
    optimizer.first_step(zero_grad=True)
    [len(g["params"]) for g in optimizer.param_groups]  # whoever looks is no scaler
    backward()
    with pytest.raises(StepError, match=r"unscale_\(\) before first_step\(\)"):
        scaler.step(optimizer)
    assert_same_bits(params, before)
    scaler.update()
    for unscales in (False, True):  # and the next ones are as ever
        optimizer.zero_grad()
        backward()
        optimizer.first_step(zero_grad=True)
        backward()
        if unscales:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert 0.5 < params[0].norm() / before[0].norm() < 1.0


def test_a_scheduler_before_the_wrapper_changes_nothing_of_what_can_be_wrapped() -> None:
    base = thalweg.SGD([matrix()], lr=0.1)
    torch.optim.lr_scheduler.ConstantLR(base)
    for wrap in (thalweg.SAM, thalweg.Lookahead):
        assert wrap(base).param_groups is base.param_groups


@pytest.mark.parametrize("steps", [0, 1])
def test_numbers_of_another_optimizer_stay_behind(steps: int) -> None:
    p = matrix()
    theirs = torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        theirs.step()
    saved = theirs.state_dict()
    saved["param_groups"][0]["param_group"] = "a framework's own key"
    lion = thalweg.Lion(
        [matrix()], lr=1e-4, weight_decay=1.0, options=[thalweg.options.Lookahead()]
    )
    with pytest.raises(CheckpointError, match="another optimizer's"):
        lion.load_state_dict(saved)
    before = {k: v for k, v in lion.param_groups[0].items() if k != "params"}
    lion.load_state_dict(saved, strict=False)
    after = {k: v for k, v in lion.param_groups[0].items() if k != "params"}
    assert after == {**before, "param_group": "a framework's own key"}
    ours = thalweg.AdamW([matrix()], lr=1e-3)
    with pytest.raises(CheckpointError, match="rule"):
        lion.load_state_dict(ours.state_dict())
    lion.load_state_dict(ours.state_dict(), strict=False)
    assert lion.param_groups[0]["lr"] == 1e-4
