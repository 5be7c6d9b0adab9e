"""The optimizers that the behaviour tests walk through, and a few seeded parameters to move."""

import torch

import thalweg
from thalweg import Hyper, Slot, rule
from thalweg import options as opt
from thalweg.ops import norm, where

BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {},
}
PLAIN = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {}),
    "radam": ("RAdam", {}),
    "adagrad": ("Adagrad", {}),
    "adadelta": ("Adadelta", {}),
    "rmsprop": ("RMSprop", {"momentum": 0.5, "centered": True}),
    "adamax": ("Adamax", {}),
    "nadam": ("NAdam", {}),
    "asgd": ("ASGD", {"t0": 2}),
    "rprop": ("Rprop", {}),
    "lion": ("Lion", {}),
    "ranger": ("Ranger", {"k": 3}),
    "signsgd": ("SignSGD", {}),
    "signum": ("Signum", {}),
    "adabound": ("AdaBound", {"gamma": 0.25}),
    "amsbound": ("AMSBound", {}),
    "adan": ("Adan", {}),
    "adabelief": ("AdaBelief", {"amsgrad": True, "eps": 1e-8}),
    "adopt": ("ADOPT", {}),
    "ademamix": ("AdEMAMix", {"alpha_warmup": 4, "beta3_warmup": 6}),
    "stableadamw": ("StableAdamW", {}),
    "novograd": ("NovoGrad", {}),
    "lars": ("LARS", {}),
    "lamb": ("LAMB", {}),
    "adafactor": ("Adafactor", {}),
}
BY_TENSOR = ("stableadamw", "novograd", "lars", "lamb")
"""Plain subjects that add up a tensor: one element's nan is every element's."""


@rule(
    slots=(Slot("velocity"), Slot("anchor", init="param")),
    hypers=(Hyper("momentum", 0.9, low=0.0, high=1.0), Hyper("pull", 0.125, low=0.0)),
)
def own_rule(g, velocity, anchor, *, p, t, first, momentum, pull):
    """A rule as a user may write one: all that a rule may ask for, and a norm over the tensor."""
    velocity = where(first, g, momentum * velocity + g)
    u = velocity * (norm(p) / (norm(velocity) + 1.0)) + pull * (p - anchor) / t
    return u, velocity, anchor


OWN = {"own rule": ("Optimizer", {"rule": own_rule})}


def laden():
    """Return one of every option that is not a decay style; new objects each time."""
    return [
        opt.ClipValue(2.0),
        opt.ClipNorm(3.0),
        opt.Centralize(),
        opt.Cautious(rescale=True),
        opt.Lookahead(k=4, alpha=0.5),
        opt.Average(0.9),
        opt.SkipNonFinite(),
    ]


LADEN = {
    "laden sgd": ("SGD", {"momentum": 0.9, "options": laden}),
    "laden adamw": ("AdamW", {"options": laden}),
    "laden lion": (
        "Lion",
        {"options": lambda: [*laden(), opt.Decay("independent", cautious=True)]},
    ),
}
SUBJECTS = {**PLAIN, **OWN, **LADEN}
SHAPES = ((7,), (6, 5), (2, 3, 2, 2), ())


def make(name, params, lr=0.0625, weight_decay=0.125, **more):
    """Build a subject; the defaults are exact in float32, so that a tensor lr means the same."""
    cls, kwargs = SUBJECTS[name]
    kwargs = {k: v() if k == "options" else v for k, v in kwargs.items()}
    return getattr(thalweg, cls)(params, lr=lr, weight_decay=weight_decay, **kwargs, **more)


def parameters(dtype=torch.float32, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(draw(s, dtype, generator)) for s in shapes]


def draw(shape, dtype, generator):
    """Draw in float64 and round, so that every precision sees the same numbers."""
    if dtype.is_complex:
        return torch.randn(shape, dtype=torch.complex128, generator=generator).to(dtype)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def gradients(params, t):
    """Return the gradients of step ``t``: functions of the step and the shapes alone."""
    generator = torch.Generator().manual_seed(1000 + t)
    return [draw(p.shape, p.dtype, generator) for p in params]


def run(optimizer, params, first, count):
    """Take steps ``first`` to ``first + count - 1``."""
    for t in range(first, first + count):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = g
        optimizer.step()


def clones(params):
    """Return leaf copies of the parameters, without gradients."""
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def run_new(name, count=6, dtype=torch.float32, **more):
    """Build a subject over fresh parameters, run it, and return it with them."""
    params = parameters(dtype)
    optimizer = make(name, params, **more)
    run(optimizer, params, 0, count)
    return optimizer, params
