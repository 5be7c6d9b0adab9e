"""Every optimizer against float64 references written from the papers, on the hard trajectory.

The references themselves are first held against torch.optim and the authors' Lion.
"""

import numpy as np
import pytest
import torch

import thalweg
from oracles import (
    AdaBelief,
    AdaBound,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    Adan,
    AdEMAMix,
    Adopt,
    Asgd,
    Lars,
    Lion,
    NAdam,
    NovoGrad,
    Options,
    RAdam,
    Reference,
    RMSprop,
    Rprop,
    Sgd,
    Signum,
    StableAdamW,
)
from thalweg import Hyper, Slot, rule
from thalweg import options as opt
from thalweg.ops import norm, where
from trajectories import assert_same_bits, assert_same_path, follow, hard, step_with, tensors, walk

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5}
BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {},
}
DECOUPLED = Options(decay="decoupled")
PROXIMAL = Options(decay="proximal")
OWN = Options(decay="own")
LAMB = Options(decay="direction", trust_ratio=True)
RANGER = Options(decay="decoupled", centralize=True, lookahead=(6, 0.5))
RANGER_HYPERS = {"betas": (0.95, 0.999), "eps": 1e-5, "n_sma_threshold": 5}

# what is built -> (our class, its arguments), (reference rule, its options, its numbers)
CASES = {
    "sgd": (("SGD", {}), (Sgd, None, {})),
    "sgd momentum": (("SGD", {"momentum": 0.9}), (Sgd, None, {"momentum": 0.9})),
    "sgd dampening": (
        ("SGD", {"momentum": 0.8, "dampening": 0.3}),
        (Sgd, None, {"momentum": 0.8, "dampening": 0.3}),
    ),
    "sgd nesterov": (
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        (Sgd, None, {"momentum": 0.9, "nesterov": True}),
    ),
    "adam": (("Adam", {}), (Adam, None, {})),
    "adam betas eps": (
        ("Adam", {"betas": (0.7, 0.95), "eps": 1e-3}),
        (Adam, None, {"betas": (0.7, 0.95), "eps": 1e-3}),
    ),
    "amsgrad": (("Adam", {"amsgrad": True}), (Adam, None, {"amsgrad": True})),
    "adam decoupled": (("Adam", {"decoupled_weight_decay": True}), (Adam, DECOUPLED, {})),
    "adamw": (("AdamW", {}), (Adam, DECOUPLED, {})),
    "adamw amsgrad": (("AdamW", {"amsgrad": True}), (Adam, DECOUPLED, {"amsgrad": True})),
    "radam": (("RAdam", {}), (RAdam, None, {})),
    "radam decoupled": (("RAdam", {"decoupled_weight_decay": True}), (RAdam, DECOUPLED, {})),
    "adagrad": (("Adagrad", {}), (Adagrad, None, {})),
    "adagrad decay start": (
        ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3}),
        (Adagrad, None, {"lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3}),
    ),
    "adadelta": (("Adadelta", {}), (Adadelta, None, {})),
    "adadelta rho eps": (
        ("Adadelta", {"rho": 0.7, "eps": 1e-3}),
        (Adadelta, None, {"rho": 0.7, "eps": 1e-3}),
    ),
    "rmsprop": (("RMSprop", {}), (RMSprop, None, {})),
    "rmsprop momentum": (
        ("RMSprop", {"momentum": 0.8, "alpha": 0.9}),
        (RMSprop, None, {"momentum": 0.8, "alpha": 0.9}),
    ),
    "rmsprop centered": (
        ("RMSprop", {"centered": True, "momentum": 0.1, "eps": 1e-3}),
        (RMSprop, None, {"centered": True, "momentum": 0.1, "eps": 1e-3}),
    ),
    "adamax": (("Adamax", {}), (Adamax, None, {})),
    "adamax betas eps": (
        ("Adamax", {"betas": (0.7, 0.95), "eps": 1e-3}),
        (Adamax, None, {"betas": (0.7, 0.95), "eps": 1e-3}),
    ),
    "nadam": (("NAdam", {}), (NAdam, None, {})),
    "nadam decoupled": (
        ("NAdam", {"decoupled_weight_decay": True, "momentum_decay": 0.05}),
        (NAdam, DECOUPLED, {"momentum_decay": 0.05}),
    ),
    "asgd": (("ASGD", {}), (Asgd, None, {})),
    "asgd averaging": (
        ("ASGD", {"lambd": 0.1, "alpha": 0.5, "t0": 10}),
        (Asgd, None, {"lambd": 0.1, "alpha": 0.5, "t0": 10}),
    ),
    "rprop": (("Rprop", {}), (Rprop, DECOUPLED, {})),
    "rprop numbers": (
        ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (0.015, 0.05)}),
        (Rprop, DECOUPLED, {"etas": (0.3, 1.5), "step_sizes": (0.015, 0.05)}),
    ),
    "adafactor": (
        ("Adafactor", {"eps": (1e-6, 1e-3)}),
        (Adafactor, DECOUPLED, {"eps": (1e-6, 1e-3)}),
    ),
    "adafactor numbers": (
        (
            "Adafactor",
            {"beta2_decay": -0.5, "eps": (1e-8, 0.1), "d": 2.0, "options": [opt.Average(0.9)]},
        ),
        (Adafactor, DECOUPLED, {"beta2_decay": -0.5, "eps": (1e-8, 0.1), "d": 2.0}),
    ),
    "adafactor centralized": (
        ("Adafactor", {"eps": (1e-12, 1e-3), "options": [opt.Centralize(), opt.ClipNorm(1.5)]}),
        (
            Adafactor,
            Options(decay="decoupled", centralize=True, clip_norm=1.5),
            {"eps": (1e-12, 1e-3)},
        ),
    ),
    "lion": (("Lion", {}), (Lion, DECOUPLED, {})),
    "lion betas": (("Lion", {"betas": (0.95, 0.98)}), (Lion, DECOUPLED, {"betas": (0.95, 0.98)})),
    "ranger": (("Ranger", {}), (RAdam, RANGER, RANGER_HYPERS)),
    "ranger k alpha": (
        ("Ranger", {"k": 4, "alpha": 0.8, "n_sma_threshold": 8}),
        (
            RAdam,
            Options(decay="decoupled", centralize=True, lookahead=(4, 0.8)),
            {**RANGER_HYPERS, "n_sma_threshold": 8},
        ),
    ),
    "adamw everything": (
        (
            "AdamW",
            {
                "maximize": True,
                "options": [
                    opt.Average(0.9),
                    opt.Lookahead(k=4, alpha=0.3),
                    opt.Cautious(rescale=True),
                    opt.Centralize(),
                    opt.ClipNorm(1.5),
                    opt.ClipValue(2.0),
                    opt.SkipNonFinite(),
                ],
            },
        ),
        (
            Adam,
            Options(
                decay="decoupled",
                maximize=True,
                clip_value=2.0,
                clip_norm=1.5,
                centralize=True,
                cautious="rescaled",
                lookahead=(4, 0.3),
                average=0.9,
                skip_non_finite=True,
            ),
            {},
        ),
    ),
    "lion cautious": (
        ("Lion", {"options": [opt.Cautious(rescale=False)]}),
        (Lion, Options(decay="decoupled", cautious="plain"), {}),
    ),
    "lion cautious decay": (
        ("Lion", {"options": [opt.Decay("decoupled", cautious=True)]}),
        (Lion, Options(decay="decoupled", cautious_decay=True), {}),
    ),
    "sgd independent decay": (
        ("SGD", {"momentum": 0.9, "options": [opt.Decay("independent")]}),
        (Sgd, Options(decay="independent"), {"momentum": 0.9}),
    ),
    "sgd proximal decay": (
        ("SGD", {"momentum": 0.9, "options": [opt.Decay("proximal")]}),
        (Sgd, Options(decay="proximal"), {"momentum": 0.9}),
    ),
    "signsgd": (("SignSGD", {}), (Signum, DECOUPLED, {})),
    "signum": (("Signum", {}), (Signum, DECOUPLED, {"momentum": 0.9})),
    "adabound": (("AdaBound", {}), (AdaBound, None, {})),
    "adabound closing": (
        ("AdaBound", {"betas": (0.8, 0.95), "final_lr": 0.05, "gamma": 0.1, "eps": 1e-4}),
        (AdaBound, None, {"betas": (0.8, 0.95), "final_lr": 0.05, "gamma": 0.1, "eps": 1e-4}),
    ),
    "adabound decoupled": (
        ("AdaBound", {"gamma": 0.05, "options": [opt.Decay("decoupled")]}),
        (AdaBound, DECOUPLED, {"gamma": 0.05}),
    ),
    "amsbound": (
        ("AMSBound", {"gamma": 0.01}),
        (AdaBound, None, {"gamma": 0.01, "amsbound": True}),
    ),
    "adan": (("Adan", {}), (Adan, PROXIMAL, {})),
    "adan no prox": (
        ("Adan", {"betas": (0.9, 0.7, 0.95), "no_prox": True, "max_grad_norm": 2.0}),
        (Adan, Options(decay="decoupled", clip_norm=2.0), {"betas": (0.9, 0.7, 0.95)}),
    ),
    "adabelief": (("AdaBelief", {}), (AdaBelief, DECOUPLED, {})),
    "adabelief amsgrad l2": (
        ("AdaBelief", {"amsgrad": True, "weight_decouple": False, "eps": 1e-8}),
        (AdaBelief, None, {"amsgrad": True, "eps": 1e-8}),
    ),
    "adopt": (("ADOPT", {}), (Adopt, None, {})),
    "adopt decouple": (
        ("ADOPT", {"decouple": True, "betas": (0.8, 0.99), "clip_exp": 0.5, "eps": 1e-3}),
        (Adopt, DECOUPLED, {"betas": (0.8, 0.99), "clip_exp": 0.5, "eps": 1e-3}),
    ),
    "ademamix": (("AdEMAMix", {}), (AdEMAMix, DECOUPLED, {})),
    "ademamix warmups": (
        ("AdEMAMix", {"alpha": 5.0, "alpha_warmup": 20, "beta3_warmup": 30}),
        (AdEMAMix, DECOUPLED, {"alpha": 5.0, "alpha_warmup": 20, "beta3_warmup": 30}),
    ),
    "stableadamw": (("StableAdamW", {}), (StableAdamW, OWN, {})),
    "stableadamw clip": (
        ("StableAdamW", {"betas": (0.8, 0.95), "clip_thresh": 0.5, "eps": 1e-4}),
        (StableAdamW, OWN, {"betas": (0.8, 0.95), "clip_thresh": 0.5, "eps": 1e-4}),
    ),
    "stableadamw decoupled": (
        ("StableAdamW", {"options": [opt.Decay("decoupled")]}),
        (StableAdamW, DECOUPLED, {}),
    ),
    "novograd": (("NovoGrad", {}), (NovoGrad, OWN, {})),
    "novograd averaging": (
        ("NovoGrad", {"betas": (0.8, 0.5), "grad_averaging": True}),
        (NovoGrad, OWN, {"betas": (0.8, 0.5), "grad_averaging": True}),
    ),
    "lars": (("LARS", {}), (Lars, OWN, {})),
    "lars no momentum": (
        ("LARS", {"momentum": 0.0, "eeta": 0.02, "epsilon": 0.1}),
        (Lars, OWN, {"momentum": 0.0, "eeta": 0.02, "epsilon": 0.1}),
    ),
    "lars l2": (("LARS", {"options": [opt.Decay("l2")]}), (Lars, None, {})),
    "lamb": (("LAMB", {}), (Adam, LAMB, {"eps": 1e-6})),
    "lamb cautious": (
        ("LAMB", {"betas": (0.8, 0.95), "options": [opt.Cautious(rescale=False)]}),
        (
            Adam,
            Options(decay="direction", cautious="plain", trust_ratio=True),
            {"betas": (0.8, 0.95), "eps": 1e-6},
        ),
    ),
    "adabound trust ratio": (
        ("AdaBound", {"options": [opt.Decay("direction"), opt.TrustRatio()]}),
        (AdaBound, LAMB, {}),
    ),
}


def reference(rule, trajectory, options=None, **hypers):
    return Reference(rule, trajectory.weights, trajectory.groups, options, **hypers)


# --- the references against others' code ----------------------------------------------------------

AGAINST_TORCH = {
    "sgd": (torch.optim.SGD, Sgd, None, {}),
    "momentum": (torch.optim.SGD, Sgd, None, {"momentum": 0.9}),
    "dampening": (torch.optim.SGD, Sgd, None, {"momentum": 0.8, "dampening": 0.3}),
    "nesterov": (torch.optim.SGD, Sgd, None, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, Adam, None, {"betas": (0.7, 0.95), "eps": 1e-3}),
    "amsgrad": (torch.optim.Adam, Adam, None, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, Adam, DECOUPLED, {}),
    "radam": (torch.optim.RAdam, RAdam, None, {}),
    "adagrad": (torch.optim.Adagrad, Adagrad, None, {"lr_decay": 0.1}),
    "adadelta": (torch.optim.Adadelta, Adadelta, None, {"rho": 0.7}),
    "rmsprop": (torch.optim.RMSprop, RMSprop, None, {"momentum": 0.8}),
    "rmsprop centered": (torch.optim.RMSprop, RMSprop, None, {"centered": True}),
    "adamax": (torch.optim.Adamax, Adamax, None, {"betas": (0.7, 0.95)}),
    "nadam": (torch.optim.NAdam, NAdam, None, {"momentum_decay": 0.05}),
    "asgd": (torch.optim.ASGD, Asgd, None, {"lambd": 0.1, "t0": 10}),
    "rprop": (torch.optim.Rprop, Rprop, None, {"etas": (0.3, 1.5)}),
    "adafactor": (torch.optim.Adafactor, Adafactor, DECOUPLED, {"eps": (1e-6, 1e-3), "d": 2.0}),
    "adafactor decay": (torch.optim.Adafactor, Adafactor, DECOUPLED, {"beta2_decay": -0.5}),
}


@pytest.mark.parametrize("second", [False, True], ids=["minimize", "opposite"])
@pytest.mark.parametrize("name", AGAINST_TORCH)
def test_reference_agrees_with_torch(name, second):
    torch_class, rule, options, hypers = AGAINST_TORCH[name]
    decay = (0.0, 0.0) if name == "rprop" else (0.01, 0.1)  # torch's Rprop has none
    trajectory = hard(maximize_second=second, weight_decay=decay)
    theirs = walk(lambda groups: torch_class(groups, foreach=False, **hypers), trajectory)
    ours = follow(reference(rule, trajectory, options, **hypers), trajectory)
    assert_same_path(ours, theirs, trajectory, 1e-12)


def test_reference_agrees_with_torch_on_decoupled_radam():
    trajectory = hard()
    theirs = walk(lambda g: torch.optim.RAdam(g, decoupled_weight_decay=True), trajectory)
    ours = follow(reference(RAdam, trajectory, DECOUPLED), trajectory)
    assert_same_path(ours, theirs, trajectory, 1e-12)


def test_reference_agrees_with_lion_pytorch():
    theirs_module = pytest.importorskip("lion_pytorch")
    trajectory = hard()
    theirs = walk(theirs_module.Lion, trajectory)
    oracle = reference(Lion, trajectory, DECOUPLED)
    assert_same_path(follow(oracle, trajectory), theirs, trajectory, 1e-12)
    assert not any(d.any() for d in oracle.doubt.values())


def test_reference_agrees_with_torchs_norm_clipping():
    trajectory = hard(steps=12)
    oracle = reference(Sgd, trajectory, Options(clip_norm=2.0))
    weights = tensors(trajectory.weights, torch.float64)
    theirs = torch.optim.SGD(trajectory.group_dicts(weights))
    for gradients in trajectory.gradients:
        oracle.step(gradients)
        for name, w in weights.items():
            g = gradients[name]
            w.grad = None if g is None else torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 2.0)
        theirs.step()
        for name, w in weights.items():
            np.testing.assert_allclose(oracle.w[name], w.detach().numpy(), rtol=1e-12, atol=1e-15)


def test_reference_lookahead_and_average_by_hand():
    """One weight, gradient 1, lr 1: 10 -> 9 -> 8, pulled to 9; then 8 -> 7, pulled to 8."""
    group = {"names": ["w"], "lr": 1.0, "weight_decay": 0.0}
    oracle = Reference(Sgd, {"w": [10.0]}, [group], Options(lookahead=(2, 0.5), average=0.5))
    seen, averages = [], []
    for _ in range(4):
        oracle.step({"w": [1.0]})
        seen.append(float(oracle.w["w"][0]))
        averages.append(float(oracle.ema["w"][0]))
    assert seen == [9.0, 9.0, 8.0, 8.0]
    assert averages == [9.5, 9.25, 8.625, 8.3125]


def test_reference_cautious_by_hand():
    """Momentum points down for both weights, the second gradient up for one: that one stays."""
    group = {"names": ["w"], "lr": 1.0, "weight_decay": 0.0}
    for style, moved in (("plain", 1.9), ("rescaled", 1.9 * 2 / (1 + 1))):
        oracle = Reference(Sgd, {"w": [0.0, 0.0]}, [group], Options(cautious=style), momentum=0.9)
        oracle.step({"w": [1.0, 1.0]})
        before = oracle.w["w"].copy()
        oracle.step({"w": [1.0, -0.5]})
        np.testing.assert_allclose(before - oracle.w["w"], [moved, 0.0])


def test_reference_decay_styles_by_hand():
    """Weights 1 and -1, direction +1, lr 0.1 of initially 0.2, weight decay 0.5."""
    for style, cautious, expected in (
        ("decoupled", False, [0.95 - 0.1, -0.95 - 0.1]),
        ("decoupled", True, [0.95 - 0.1, -1.0 - 0.1]),
        ("independent", False, [0.75 - 0.1, -0.75 - 0.1]),
        ("l2", False, [1 - 0.15, -1 - 0.05]),
    ):
        group = {"names": ["w"], "lr": 0.1, "initial_lr": 0.2, "weight_decay": 0.5}
        options = Options(decay=style, cautious_decay=cautious)
        oracle = Reference(Sgd, {"w": [1.0, -1.0]}, [group], options)
        oracle.step({"w": [1.0, 1.0]})
        np.testing.assert_allclose(oracle.w["w"], expected)


# --- the comparer can fail ------------------------------------------------------------------------

BROKEN = {
    "swapped betas": {"betas": (0.999, 0.9)},
    "eps": {"eps": 1e-6},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "decoupled": {"decoupled_weight_decay": True},
}


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("name", BROKEN)
def test_comparer_sees_a_broken_adam(name, dtype):
    trajectory = hard()
    broken = walk(lambda groups: torch.optim.Adam(groups, **BROKEN[name]), trajectory, dtype)
    good = follow(reference(Adam, trajectory), trajectory)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(broken, good, trajectory, RELATIVE[dtype], dtype)


class GroupStepAdam(torch.optim.Adam):
    """Counts steps per group: what optimi does, and what a None gradient brings to light."""

    def step(self, closure=None):
        for group in self.param_groups:
            most = max(
                (self.state[p]["step"] for p in group["params"] if p in self.state), default=0
            )
            for p in group["params"]:
                if p in self.state:
                    self.state[p]["step"].fill_(most)
        return super().step(closure)


class TouchesGradient(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.mul_(0.5)
        return super().step(closure)


def test_comparer_sees_steps_counted_per_group():
    trajectory = hard()
    good = follow(reference(Adam, trajectory), trajectory)
    with pytest.raises(AssertionError, match="gaps: off by"):
        assert_same_path(walk(GroupStepAdam, trajectory), good, trajectory, 1e-10)


def test_walk_sees_a_written_gradient():
    with pytest.raises(AssertionError, match="wrote to the gradient"):
        walk(TouchesGradient, hard())


@pytest.mark.parametrize("lost", ["exp_avg", "step"])
def test_walk_sees_state_lost_on_resume(lost):
    class Forgets(torch.optim.Adam):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            for state in self.state.values():
                state[lost].zero_()

    trajectory = hard()
    good = follow(reference(Adam, trajectory), trajectory)
    with pytest.raises(AssertionError, match="step 32"):
        assert_same_path(walk(Forgets, trajectory), good, trajectory, 1e-10)


def test_bit_comparer_can_fail():
    x = torch.tensor([1.0, float("nan"), 0.0])
    assert_same_bits([x.clone(), {"a": 1}], [x, {"a": 1}])
    for other in (torch.tensor([1.0 + 2**-23, float("nan"), 0.0]), -x, x.double(), x[:2]):
        with pytest.raises(AssertionError):
            assert_same_bits(other, x)
    with pytest.raises(AssertionError):
        assert_same_bits({"a": 1, "b": 2}, {"a": 1})


# --- ours against the references ------------------------------------------------------------------


def ours_and_reference(name, trajectory, dtype, **backend):
    (cls, kwargs), (rule, options, hypers) = CASES[name]
    ours = walk(
        lambda groups: getattr(thalweg, cls)(groups, **kwargs, **backend), trajectory, dtype
    )
    oracle = reference(rule, trajectory, options, **hypers)
    return ours, follow(oracle, trajectory), oracle


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_ours_follows_the_reference(name, backend, dtype):
    trajectory = hard()
    ours, theirs, oracle = ours_and_reference(name, trajectory, dtype, **BACKENDS[backend])
    doubtful = sum(int(d.sum()) for d in oracle.doubt.values())
    total = sum(d.size for d in oracle.doubt.values())
    assert doubtful <= 0.02 * total
    doubt = oracle.doubt if dtype is torch.float32 else None
    assert_same_path(ours, theirs, trajectory, RELATIVE[dtype], dtype, doubt)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["sgd nesterov", "adamw", "lion", "ranger"])
def test_opposite_maximize_and_no_decay(name, backend):
    trajectory = hard(seed=1, maximize_second=True, weight_decay=(0.0, 0.0))
    ours, theirs, _ = ours_and_reference(name, trajectory, torch.float64, **BACKENDS[backend])
    assert_same_path(ours, theirs, trajectory, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_of_ones_own_follows_its_formula(backend):
    """Norms over rows, the tensor and everything, the parameter, the step, an anchor, ``first``."""
    trajectory = hard(steps=12)
    weights = tensors(trajectory.weights, torch.float64)
    optimizer = thalweg.Optimizer(
        trajectory.group_dicts(weights), rule=three_norms, pull=0.5, **BACKENDS[backend]
    )
    expected = {n: w.copy() for n, w in trajectory.weights.items()}
    velocity, steps = dict.fromkeys(expected), dict.fromkeys(expected, 0)
    group_of = {n: g for g in trajectory.groups for n in g["names"]}
    for gradients in trajectory.gradients:
        step_with(optimizer, weights, gradients)
        live = {n: g for n, g in gradients.items() if g is not None}
        everything = np.sqrt(sum((g * g).sum() for g in live.values()))
        for n, g in live.items():
            p, lr = expected[n], group_of[n]["lr"]
            steps[n] += 1
            velocity[n] = g if velocity[n] is None else 0.9 * velocity[n] + g
            v = velocity[n]
            rows = np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
            u = v * np.sqrt((p * p).sum()) / (rows + 1.0) + g / (everything + 1.0)
            u = u + 0.5 * (p - trajectory.weights[n]) / steps[n]
            expected[n] = p * (1 - lr * group_of[n]["weight_decay"]) - lr * u
            np.testing.assert_allclose(
                weights[n].detach().numpy(), expected[n], rtol=1e-10, atol=1e-12
            )


@rule(
    slots=(Slot("velocity"), Slot("anchor", init="param")),
    hypers=(Hyper("momentum", 0.9, low=0.0, high=1.0), Hyper("pull", 0.1, low=0.0)),
)
def three_norms(g, velocity, anchor, *, p, t, first, momentum, pull):
    """Direction of the test above."""
    velocity = where(first, g, momentum * velocity + g)
    u = velocity * norm(p) / (norm(velocity, over="row") + 1.0) + g / (norm(g, over="all") + 1.0)
    return u + pull * (p - anchor) / t, velocity, anchor


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_resume_changes_nothing(backend):
    """Several resumes drift where one does not; every step here is one."""
    trajectory = hard(steps=9)
    kwargs = {"options": [opt.Lookahead(k=4), opt.Average(0.9)], **BACKENDS[backend]}
    whole = walk(lambda g: thalweg.AdamW(g, **kwargs), trajectory)
    weights = tensors(trajectory.weights, torch.float64)
    optimizer = thalweg.AdamW(trajectory.group_dicts(weights), **kwargs)
    for t, gradients in enumerate(trajectory.gradients):
        saved = optimizer.state_dict()
        optimizer = thalweg.AdamW(trajectory.group_dicts(weights), **kwargs)
        optimizer.load_state_dict(saved)
        step_with(optimizer, weights, gradients)
        for name, w in weights.items():
            np.testing.assert_array_equal(w.detach().numpy(), whole[t][name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_average_and_lookahead_slots_follow_the_reference(backend):
    """The averages are no part of the weights' path: they are read by exchanging values."""
    trajectory = hard(steps=14)
    oracle = reference(Adam, trajectory, Options(lookahead=(4, 0.3), average=0.8))
    follow(oracle, trajectory)
    kwargs = {"options": [opt.Lookahead(k=4, alpha=0.3), opt.Average(0.8)], **BACKENDS[backend]}
    weights = tensors(trajectory.weights, torch.float64)
    optimizer = thalweg.Adam(trajectory.group_dicts(weights), **kwargs)
    for gradients in trajectory.gradients:
        step_with(optimizer, weights, gradients)
    with optimizer.averaged():
        for name, w in weights.items():
            np.testing.assert_allclose(w.detach().numpy(), oracle.ema[name], rtol=0, atol=1e-12)
    for name, w in weights.items():
        slow = optimizer.state[w]["lookahead_slow"]
        np.testing.assert_allclose(slow.numpy(), oracle.slow[name], rtol=0, atol=1e-12)
        np.testing.assert_allclose(w.detach().numpy(), oracle.w[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_hypers_may_change_between_steps(backend, dtype):
    """A schedule may drive any number: betas, eps, momentum, an option's own."""
    trajectory = hard(steps=20)
    oracle = reference(Adam, trajectory, Options(decay="decoupled", clip_value=0.7))
    weights = tensors(trajectory.weights, dtype)
    kwargs = {"options": [opt.ClipValue(0.7)], **BACKENDS[backend]}
    optimizer = thalweg.AdamW(trajectory.group_dicts(weights), **kwargs)
    ours, theirs = [], []
    for t, gradients in enumerate(trajectory.gradients):
        for group in [*optimizer.param_groups, *oracle.groups]:
            group["betas"] = (0.9 - 0.01 * t, 0.999 - 0.002 * t)
            group["eps"] = 1e-8 * (t + 1)
            group["weight_decay"] = 0.1 / (t + 1)
        step_with(optimizer, weights, gradients)
        oracle.step(gradients)
        ours.append({n: w.detach().double().numpy().copy() for n, w in weights.items()})
        theirs.append({n: w.copy() for n, w in oracle.w.items()})
    assert_same_path(ours, theirs, trajectory.first(20), RELATIVE[dtype], dtype)
