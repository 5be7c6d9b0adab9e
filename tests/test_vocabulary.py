"""Operations that are a few units in the last place off: each backend against eager, and the scalar lane."""

import itertools
import math

import numpy as np
import pytest
import torch

import thalweg
from oracles import Adam, Options, Reference
from thalweg import Hyper, Scalar, Slot, rule
from thalweg.engine.ops import OPS
from thalweg.ops import atan2, exp, lerp, log, sqrt
from trajectories import assert_same_path, follow, hard, walk

BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"fused": True},
}
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-45, -1e-40, 3e38)


@rule(slots=(Slot("raised"), Slot("logged"), Slot("turned")), name="vocabulary_functions")
def functions(g, raised, logged, turned, *, p):
    return 0.0 * g, exp(g), log(g), atan2(g, p)


def apart(a, b):
    """How many numbers of their type lie between two tensors, where they are not the same."""
    kind = torch.int32 if a.dtype == torch.float32 else torch.int64
    differs = (a != b) & ~((a != a) & (b != b))
    return int((a[differs].view(kind) - b[differs].view(kind)).abs().max()) if differs.any() else 0


def test_the_distance_counts_units_in_the_last_place():
    x = torch.tensor([1.0, math.nan])
    assert apart(x, x) == 0
    assert apart(torch.nextafter(x, x + 1), x) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_are_within_their_ulps_of_eager(backend, dtype):
    pairs = torch.tensor(list(itertools.product(SPECIAL, SPECIAL)), dtype=dtype)
    drawn = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, x = torch.cat([pairs, drawn]).unbind(1)
    p = torch.nn.Parameter(x.clone())
    p.grad = y.clone()
    optimizer = thalweg.Optimizer([p], lr=0.0, rule=functions, **BACKENDS[backend])
    optimizer.step()
    assert {"eager": "eager", "foreach": "foreach", "fused": "(C)"}[backend] in optimizer.explain()
    state = optimizer.state[p]
    for key, name, expected in (
        ("raised", "exp", torch.exp(y)),
        ("logged", "log", torch.log(y)),
        ("turned", "atan2", torch.atan2(y, x)),
    ):
        assert apart(state[key], expected) <= OPS[name].ulps
    zero = state["turned"] == 0
    assert torch.equal(state["turned"][zero].signbit(), torch.atan2(y, x)[zero].signbit())


@pytest.mark.parametrize(("y", "x"), list(itertools.product(SPECIAL, SPECIAL)))
def test_the_scalar_lane_turns_as_tensors_do(y, x):
    expected = torch.atan2(*torch.tensor([y, x], dtype=torch.float64)).item()
    assert atan2(y, x) == pytest.approx(expected, rel=1e-15, nan_ok=True)
    assert math.copysign(1.0, atan2(y, x)) == math.copysign(1.0, expected) or y != y or x != x


# --- an optimizer with it ---------------------------------------------------------------------------


@rule(
    slots=(Slot("exp_avg"), Slot("exp_avg_sq", signed=False)),
    scalars=(Scalar("step"),),
    hypers=(
        Hyper("beta1", 0.9, low=0.0, high=1.0, at="betas[0]"),
        Hyper("beta2", 0.999, low=0.0, high=1.0, at="betas[1]"),
    ),
    paper="Everett et al. 2024, arXiv:2407.05872, section 4",
    name="vocabulary_adam_atan2",
)
def adam_atan2(g, exp_avg, exp_avg_sq, *, beta1, beta2, t):
    """Adam without eps: the angle of mean and root, which no scale of the gradients changes."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    root = sqrt(exp_avg_sq / (1.0 - beta2**t))
    return atan2(exp_avg / (1.0 - beta1**t), root), exp_avg, exp_avg_sq


class AdamAtan2(Adam):
    """The oracle: Adam's two moments, and arctan2 for the division."""

    def direction(self, g, betas=(0.9, 0.999)):
        super().direction(np.where(g == 0.0, 0.0, g), betas, eps=1e-300)
        m_hat = self.m / (1 - betas[0] ** self.t)
        return np.arctan2(m_hat, np.sqrt(self.v / (1 - betas[1] ** self.t)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_adam_with_atan2_follows_its_formula(backend, dtype):
    trajectory = hard()
    oracle = Reference(AdamAtan2, trajectory.weights, trajectory.groups, Options(decay="decoupled"))
    ours = walk(
        lambda groups: thalweg.Optimizer(groups, rule=adam_atan2, **BACKENDS[backend]),
        trajectory,
        dtype,
    )
    relative = 1e-10 if dtype == torch.float64 else 1e-5
    assert_same_path(ours, follow(oracle, trajectory), trajectory, relative, dtype)
