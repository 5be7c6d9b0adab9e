"""A sound optimizer, and for every check of the conformance kit one that is broken in that way.

Each breaks as some real optimizer does, or did.
"""

import copy
import itertools
import os
from fractions import Fraction

import torch

BORN_IN = os.getpid()


class Sound(torch.optim.Optimizer):
    """Averaged gradients with bias correction, tensor by tensor; the parts are there to be broken."""

    def __init__(
        self, params, lr=0.05, momentum=0.5, weight_decay=0.0, *, maximize=False, foreach=None
    ):
        self.check(lr)
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "maximize": maximize, "foreach": foreach})

    def check(self, lr):
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")

    def step(self, closure=None):
        loss = self.evaluate(closure)
        with torch.no_grad():
            self.advance()
        return loss

    def evaluate(self, closure):
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def advance(self):
        if os.getpid() != BORN_IN:  # a forked process has none of its parent's threads
            torch.set_num_threads(1)
        found = self.found()
        for _, p in found:
            if p.grad.layout != torch.strided:
                raise RuntimeError("sparse gradients are not supported")
            if not self.state[p]:
                self.state[p].update(self.fresh(p))
        for group, p in found:
            self.update(group, p, self.state[p], p.grad)

    def found(self):
        return [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]

    def fresh(self, p):
        return {"step": torch.zeros((), dtype=torch.float64), "average": torch.zeros_like(p)}

    def update(self, group, p, state, g):
        g = self.directed(group, g)
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        state["step"] += 1
        beta = group["momentum"]
        state["average"].mul_(beta).add_(g, alpha=1.0 - beta)
        correction = 1.0 - beta ** state["step"].item()
        self.move(p, state["average"] / correction * self.rate(group))

    def directed(self, group, g):
        return -g if group["maximize"] else g

    def rate(self, group):
        return group["lr"]

    def move(self, p, step):
        p.sub_(step)

    def load_state_dict(self, state_dict):
        super().load_state_dict(copy.deepcopy(state_dict))

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)


# --- calls ----------------------------------------------------------------------------------------


class StepsThroughSuper(Sound):
    def step(self, closure=None):
        return super().step(closure)


class ClosureTwice(Sound):
    def evaluate(self, closure):
        return closure and (super().evaluate(closure), super().evaluate(closure))[1]


class ClosureWithoutGrad(Sound):
    def evaluate(self, closure):
        return closure and closure()


class ForgetsLoss(Sound):
    def evaluate(self, closure):
        super().evaluate(closure)


class SwallowsClosure(Sound):
    def evaluate(self, closure):
        try:
            return super().evaluate(closure)
        except Exception:
            return None


class StepsBeforeClosure(Sound):
    """What the closure raises arrives, and a step is taken none the less."""

    def step(self, closure=None):
        with torch.no_grad():
            self.advance()
        return self.evaluate(closure)


class TakesAnything(Sound):
    def __init__(self, params, lr=0.05, **_):
        super().__init__(params, lr)


class TakesAnyRate(Sound):
    def check(self, lr):
        pass


class TakesNothing(Sound):
    def __init__(self, params, **kw):
        super().__init__(list(params) or [torch.nn.Parameter(torch.zeros(1))], **kw)


class ClaimsToUnscale(Sound):
    _step_supports_amp_scaling = True


class WritesItsRate(Sound):
    def advance(self):
        super().advance()
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"]


class LosesKeys(Sound):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for key in set(group) - {*self.defaults, "params"}:
                del group[key]


class KeepsItsRate(Sound):
    def rate(self, group):
        return self.defaults["lr"]


class ShrinksItsRate(Sound):
    def rate(self, group):
        lr = group["lr"]
        lr *= 0.9  # a tensor is changed for good, a number is not
        return lr


class OneRate(Sound):
    def rate(self, group):
        return self.param_groups[0]["lr"]


class OneDecay(Sound):
    """What a group says of its decay is not heard: biases decay with the rest."""

    def update(self, group, p, state, g):
        super().update({**group, "weight_decay": self.defaults["weight_decay"]}, p, state, g)


class OneMomentum(Sound):
    def update(self, group, p, state, g):
        super().update({**group, "momentum": self.defaults["momentum"]}, p, state, g)


class NoDecay(Sound):
    """Takes a weight_decay, keeps it in its groups, and does nothing with it."""

    def update(self, group, p, state, g):
        super().update({**group, "weight_decay": 0.0}, p, state, g)


class OneDirection(Sound):
    def directed(self, group, g):
        return -g if self.defaults["maximize"] else g


class KeepsItsParameters(Sound):
    def found(self):
        if not hasattr(self, "kept"):
            self.kept = [(g, p) for g in self.param_groups for p in g["params"]]
        return [(g, p) for g, p in self.kept if p.grad is not None]


# --- checkpoints ----------------------------------------------------------------------------------


class StateAside(Sound):
    """What it remembers is no part of its state_dict."""

    def update(self, group, p, state, g):
        aside = self.__dict__.setdefault("aside", {})
        super().update(group, p, aside.setdefault(p, self.fresh(p)), g)


class TrustsWhatItLoads(Sound):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["loaded"] = True


class KeepsObjects(Sound):
    def fresh(self, p):
        return {**super().fresh(p), "scale": Fraction(1, 3)}


class StateInFloat32(Sound):
    """Loading casts it to the parameter's dtype, as torch's base class does."""

    def fresh(self, p):
        return {**super().fresh(p), "average": torch.zeros_like(p, dtype=torch.float32)}

    def update(self, group, p, state, g):
        super().update(group, p, state, g.to(state["average"].dtype))


class SharesWhatItLoads(Sound):
    def load_state_dict(self, state_dict):
        torch.optim.Optimizer.load_state_dict(self, state_dict)


class NeedsNewKeys(Sound):
    def __setstate__(self, state):
        torch.optim.Optimizer.__setstate__(self, state)


class NumbersInAttributes(Sound):
    """Copies keep defaults, state and groups, and no other attribute."""

    def __init__(self, params, **kw):
        super().__init__(params, **kw)
        self.factor = 1.0

    def rate(self, group):
        return self.factor * group["lr"]


class KeepsFunctions(Sound):
    def __init__(self, params, **kw):
        super().__init__(params, **kw)
        self.defaults["schedule"] = lambda t: t


class GlobalState(Sound):
    def advance(self):
        super().advance()
        self.state["global"] = {"steps": 1}


class DecaysAnyway(Sound):
    """A decay that lr does not scale."""

    def move(self, p, step):
        p.mul_(0.999).sub_(step)


# --- gradients ------------------------------------------------------------------------------------


class ClipsInPlace(Sound):
    def update(self, group, p, state, g):
        super().update(group, p, state, g.clamp_(-0.1, 0.1))


class DecaysTheGradient(Sound):
    """Adds the penalty to the user's gradient: only where there is one."""

    def update(self, group, p, state, g):
        if group["weight_decay"]:
            g.add_(p, alpha=group["weight_decay"])
        super().update({**group, "weight_decay": 0.0}, p, state, g)


class NegatesTheGradient(Sound):
    def directed(self, group, g):
        return g.neg_() if group["maximize"] else g


class NoneIsZero(Sound):
    def found(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return super().found()


class OneCount(Sound):
    """Counts steps of the group, not of the parameter."""

    def advance(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
        super().advance()

    def update(self, group, p, state, g):
        state["step"].fill_(group["step"] - 1)
        super().update(group, p, state, g)


class ReadsAsContiguous(Sound):
    def update(self, group, p, state, g):
        strides = torch.empty_like(p, memory_format=torch.contiguous_format).stride()
        super().update(group, p, state, torch.as_strided(g, p.shape, strides))


class Densifies(Sound):
    def found(self):
        for p in (p for g in self.param_groups for p in g["params"] if p.grad is not None):
            p.grad = p.grad.to_dense()
        return super().found()


class LastOfDuplicates(Sound):
    """Takes one of the gradients of a row that stands in the batch twice."""

    def found(self):
        found = super().found()
        for _, p in found:
            if p.grad.layout != torch.strided:
                rows = torch.zeros_like(p)
                rows[p.grad._indices()[0]] = p.grad._values()
                p.grad = rows
        return found


class WritesThroughData(Sound):
    def move(self, p, step):
        p.data.sub_(step)


# --- tensors --------------------------------------------------------------------------------------


class NeedsElements(Sound):
    def update(self, group, p, state, g):
        super().update(group, p, state, g / g.abs().max().clamp(min=1.0))


class NeedsDimensions(Sound):
    def update(self, group, p, state, g):
        super().update(group, p, state, g / max(p.shape[0], 1))


class Flattens(Sound):
    def move(self, p, step):
        p.view(-1).sub_(step.reshape(-1))


class ReplacesStorage(Sound):
    def move(self, p, step):
        p.data = (p - step).contiguous()


class TakesMagnitudes(Sound):
    """Of a complex number it takes one where there are two."""

    def update(self, group, p, state, g):
        super().update(group, p, state, g / (1.0 + g.abs()))


class OneDtype(Sound):
    def advance(self):
        if len({p.dtype for _, p in self.found()}) > 1:
            raise RuntimeError("all parameters must have one dtype")
        super().advance()


# --- the machine ----------------------------------------------------------------------------------


class PublishesHalf(Sound):
    def advance(self):
        for _, p in self.found():
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float64)
                self.state[p]["average"] = torch.zeros_like(p)
        super().advance()


class HangsInForks(Sound):
    def advance(self):
        super().advance() if os.getpid() == BORN_IN else torch.multiprocessing.Event().wait()


class CrashesInForks(Sound):
    def advance(self):
        super().advance() if os.getpid() == BORN_IN else os._exit(11)


class CountsThreads(Sound):
    """As a sum does that is split by thread."""

    def rate(self, group):
        return group["lr"] * (1.0 + 1e-6 * torch.get_num_threads())


class NeverTheSame(Sound):
    made = itertools.count(1)

    def __init__(self, params, **kw):
        super().__init__(params, **kw)
        self.param_groups[0]["momentum"] = 0.5 / next(self.made)


class OtherForeach(Sound):
    def directed(self, group, g):
        return (
            1.001 * super().directed(group, g) if group["foreach"] else super().directed(group, g)
        )


class HasNoBackends(Sound):
    """Takes the arguments of torch's classes, and raises whenever one is used."""

    def __init__(self, params, lr=0.05, *, foreach=None, fused=None):
        super().__init__(params, lr, foreach=foreach)
        if foreach or fused:
            raise TypeError("there is no foreach and no fused step")


class CountsInFloat32(Sound):
    def fresh(self, p):
        return {**super().fresh(p), "step": torch.zeros((), dtype=torch.float32)}


class CountsInDefaultDtype(Sound):
    def fresh(self, p):
        return {**super().fresh(p), "step": torch.zeros(())}


# --- of no use at all -----------------------------------------------------------------------------


class NeverMoves(Sound):
    """All is kept, counted and loaded as it should be."""

    def move(self, p, step):
        pass


class NeverMovesMuch(Sound):
    """Small tensors move; large ones do not."""

    def move(self, p, step):
        super().move(p, step if p.numel() < 1000 else 0.0 * step)


class NeverSetUp(torch.optim.Optimizer):
    """Its constructor forgets the base class's."""

    def __init__(self, params, lr=0.05):
        self.param_groups = [{"params": list(params), "lr": lr}]

    def step(self, closure=None):
        pass


BROKEN = {
    "hooks-once": (StepsThroughSuper, "pre, pre, post, post"),
    "closure-once": (ClosureTwice, "got 2 calls"),
    "closure-grad": (ClosureWithoutGrad, "got disabled"),
    "closure-loss": (ForgetsLoss, "got None"),
    "closure-raises": (SwallowsClosure, "OutOfMemoryError that the closure raised; got none"),
    "misspelt-argument": (TakesAnything, "weight_decya; got an optimizer"),
    "negative-lr": (TakesAnyRate, "lr=-0.1; got an optimizer"),
    "no-parameters": (TakesNothing, "empty parameter list; got an optimizer"),
    "grad-scaler": (ClaimsToUnscale, "nothing moved by a step with an infinite gradient; got"),
    "schedulers": (WritesItsRate, "ExponentialLR: [0.03125, 0.03125"),
    "scheduler-resume": (LosesKeys, "KeyError"),
    "lr-from-groups": (KeepsItsRate, "made with that lr; got 0 (float32 (7,)) different"),
    "tensor-lr": (ShrinksItsRate, "the steps of the number 0.0625; got"),
    "lr-per-group": (OneRate, "each group as alone; got 2"),
    "group-numbers": (OneDecay, "weight_decay=0.1 to walk as an optimizer made with it; got 2"),
    "maximize-per-group": (OneDirection, "negated gradients in that group; got 2"),
    "add-param-group": (KeepsItsParameters, "each group as alone; got 2"),
    "resume": (StateAside, "never interrupted; got parameter 0"),
    "load-before-first-step": (TrustsWhatItLoads, "KeyError"),
    "weights-only": (KeepsObjects, "Fraction"),
    "dtypes-kept": (StateInFloat32, "'torch.bfloat16' instead of 'torch.float32'"),
    "loading-copies": (SharesWhatItLoads, "after loading leave as it was; got state 0"),
    "older-checkpoint": (NeedsNewKeys, "KeyError: 'maximize'"),
    "foreign-group-keys": (LosesKeys, "param_group None instead of 'bias'"),
    "deepcopy": (NumbersInAttributes, "no attribute 'factor'"),
    "pickle": (KeepsFunctions, "lambda"),
    "dcp-resume": (GlobalState, "expected no exception; got"),
    "dcp-moves-nothing": (DecaysAnyway, "saving does not move; got 0"),
    "gradients-untouched": (ClipsInPlace, "after the step; got 0"),
    "no-gradients": (NoneIsZero, "weights that nothing moves; got 0"),
    "none-gradient": (NoneIsZero, "without gradient that stays; got"),
    "late-gradient": (OneCount, "the steps it takes alone; got"),
    "frozen-and-back": (OneCount, "the steps it takes alone; got"),
    "expanded-gradient": (ReadsAsContiguous, "out of bounds"),
    "sparse-gradient": (LastOfDuplicates, "the steps of its sum; got 0"),
    "sparse-refused": (Densifies, "got a step"),
    "autograd-version": (WritesThroughData, "computed from the changed weights"),
    "zero-size": (NeedsElements, "max()"),
    "zero-dim": (NeedsDimensions, "IndexError"),
    "channels-last": (Flattens, "view size is not compatible"),
    "non-contiguous-parameter": (ReplacesStorage, "the slice that they were given as; got"),
    "non-contiguous-gradient": (ReadsAsContiguous, "of contiguous gradients; got"),
    "complex": (TakesMagnitudes, "real and imaginary parts; got 0"),
    "mixed-dtypes": (OneDtype, "must have one dtype"),
    "failed-allocation": (
        PublishesHalf,
        "another try to step, after allocation 2 failed; got KeyError",
    ),
    "fork": (HangsInForks, "it hung"),
    "thread-counts": (CountsThreads, "with 2 threads the bits of 1; got"),
    "repeatable": (NeverTheSame, "the bits of the first run; got"),
    "backends-agree": (OtherForeach, "with foreach=True the loop's steps; got"),
    "long-runs": (CountsInFloat32, "got [16777216]"),
    "counts-in-bf16": (CountsInDefaultDtype, "got [256]"),
}
"""By check: an optimizer that fails it, and part of what the report says."""
ALSO_BROKEN = [
    ("closure-raises", StepsBeforeClosure, "step whose closure raised; got 0"),
    ("group-numbers", OneMomentum, "momentum=0.25 to walk as an optimizer made with it; got 2"),
    ("group-numbers", NoDecay, "weight_decay=0.1 to change the step; got the same bits"),
    ("gradients-untouched", DecaysTheGradient, "after the step, weight_decay=0.1; got 0"),
    ("gradients-untouched", NegatesTheGradient, "after the step, maximize=True; got 0"),
    ("thread-counts", NeverMovesMuch, "a weight; got none moved in 3 with gradients that are not"),
]
"""In other ways: a check, an optimizer that fails it, and part of what the report says."""
STANDS_STILL = {
    "misspelt-argument",
    "negative-lr",
    "no-parameters",
    "dcp-moves-nothing",
    "sparse-refused",
}
"""What is asked of no step: the checks that an optimizer which never moves may pass."""
