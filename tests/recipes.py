"""Every algorithm of the catalogue and every option as one string each, and exact numbers to train them with.

What is added to the catalogue or to the options is here by itself, with its defaults; an option that needs
arguments gets them in OPTIONS. Starts and gradients are quotients of whole numbers, the same on any machine.
"""

from __future__ import annotations

import re

import torch

import thalweg
from thalweg import options
from thalweg.errors import ArgumentError

VARIANTS = {
    "sgd-nesterov": "sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)",
    "adam-amsgrad": "adam(amsgrad=True, weight_decay=0.01)",
    "radam-decoupled": "radam(decoupled_weight_decay=True, weight_decay=0.01)",
    "rmsprop-centered": "rmsprop(centered=True, momentum=0.5)",
    "asgd-averaging": "asgd(t0=2, lambd=0.1)",
    "lbfgs": "lbfgs(max_iter=2)",
    "lbfgs-wolfe": "lbfgs(max_iter=2, line_search_fn='strong_wolfe')",
    "adabelief-amsgrad": "adabelief(amsgrad=True)",
    "ademamix-warmup": "ademamix(alpha_warmup=4, beta3_warmup=6)",
    "prodigy-growing": "prodigy(d0=1e-3, weight_decay=0.1)",
    "ranger-soon": "ranger(k=3)",
    "adamwschedulefree-warmup": "adamwschedulefree(warmup_steps=4, weight_decay=0.1)",
    "adamw-all-at-once": "adamw(weight_decay=0.1) + clip_value(2.0) + clip_norm(3.0) + centralize + cautious"
    " + lookahead(k=4) + average(0.9) + skip_non_finite + decay('independent', cautious=True)",
    "wrapper-lookahead": "Lookahead(sgd(lr=0.1, momentum=0.9), k=3, momentum='pullback')",
    "wrapper-sam": "SAM(adamw)",
}
OPTIONS = {
    "average": "average(0.9)",
    "clip_norm": "clip_norm(0.7)",
    "clip_value": "clip_value(0.5)",
    "decay": "decay('independent')",
    "lookahead": "lookahead(k=3)",
    "state_dtype": "state_dtype('bfloat16')",
}
SHAPES = ((3, 4), (5,), (2, 3, 2, 1), ())
MATRICES = ((3, 4), (5, 2), (2, 6))
NO_GRADIENT = {(2, 1), (3, 1), (5, 0)}
"""(step, parameter): there the second has none, and elsewhere the first."""


def recipes():
    """All of them by name: the catalogue with defaults, variants, and AdamW with each option."""
    found = {name: name for name in thalweg.list_optimizers()} | VARIANTS
    for name in options.__all__:
        key = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        found[f"option-{key}"] = f"adamw(weight_decay=0.1) + {OPTIONS.get(key, key)}"
    return found


def build(recipe, tensors):
    """Make the optimizer of a recipe over named parameters in two groups."""
    wrapped = re.fullmatch(r"(Lookahead|SAM)\((\w+(?:\(.*?\))?)(?:, (.*))?\)", recipe)
    if wrapped:
        settings = eval(f"dict({wrapped[3] or ''})", {"__builtins__": {"dict": dict}})
        return getattr(thalweg, wrapped[1])(build(wrapped[2], tensors), **settings)
    named = [(f"layer.{i}", p) for i, p in enumerate(tensors)]
    if recipe.startswith("lbfgs"):  # takes one group
        return thalweg.create_optimizer(named, recipe)
    groups = [{"params": named[:1]}, {"params": named[1:]}]
    return thalweg.create_optimizer(groups, recipe)


def begin(recipe):
    """Return fresh parameters and the optimizer over them; matrices where it takes nothing else."""
    for shapes in (MATRICES,) if recipe.startswith("sparseadam") else (SHAPES, MATRICES):
        tensors = [torch.nn.Parameter(numbers(s, 31 * i) * (i + 1)) for i, s in enumerate(shapes)]
        try:
            return tensors, build(recipe, tensors)
        except ArgumentError as refused:
            if "2D" not in str(refused):
                raise
    raise AssertionError(recipe)


def numbers(shape, seed):
    """Return numbers in [-1, 1] that are exact in any floating format of 11 bits or more."""
    count = torch.Size(shape).numel()
    found = (torch.arange(count) * 7919 + seed * 104729 + 977) % 2003 % 513
    return ((found - 256) / 256.0).reshape(shape)


def train(recipe, tensors, optimizer, first, count):
    """Take steps ``first`` to ``first + count - 1`` towards a point, with noise."""
    sparse = recipe.startswith("sparseadam")
    for t in range(first, first + count):

        def closure(t=t):
            loss = 0.0
            for i, p in enumerate(tensors):
                g = 0.25 * (p.detach() - 0.5 * i) + numbers(p.shape, 1000 + 17 * t + i)
                if p.ndim and t % 3 == 0:
                    g[0] = 0.0
                absent = (t, i) in NO_GRADIENT
                p.grad = None if absent else g.to_sparse(1) if sparse else g
                loss += float((g * g).sum())
            return loss

        optimizer.step(closure)


def flat(tensors):
    """Return all weights as one vector."""
    return torch.cat([p.detach().reshape(-1) for p in tensors])
