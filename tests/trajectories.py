"""The hard trajectory: what has broken an optimizer before, in fifty seeded steps.

Two groups of different lr and weight decay; shapes (7,), (33, 5), (4, 3, 2, 2), (1,); a parameter
that has no gradient at some steps, its first among them; gradients that are all zero, of size 1e-7,
of size 1e4; the lr changes on the way; and the run is saved, rebuilt and resumed in the middle.
All inputs are exact in float32, so that every precision sees the same numbers.
"""

import copy
import io
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import torch

# name -> (shape, group)
PARAMETERS = {
    "vector": ((7,), 0),
    "matrix": ((33, 5), 0),
    "still": ((7,), 0),
    "gaps": ((4, 3, 2, 2), 0),
    "kernel": ((4, 3, 2, 2), 1),
    "single": ((1,), 1),
    "tiny": ((33, 5), 1),
    "huge": ((7,), 1),
}
NO_GRADIENT = {"gaps": {0, 1, 5, 6, 20, 33}}
ZERO_GRADIENT = {"matrix": {7, 8}, "kernel": {0}, "single": {29, 30}}
HUGE_GRADIENT = {"huge": {10, 11, 40}}
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


@dataclass(frozen=True)
class Trajectory:
    """Start, gradients of every step, and the groups as plain numbers."""

    weights: dict
    gradients: list
    groups: tuple
    lr_changes: dict = field(default_factory=dict)  # step -> factor on the lr of all groups
    resume_at: int | None = None

    def group_dicts(self, tensors):
        """Return torch parameter groups over ``tensors``."""
        return [
            {"params": [tensors[n] for n in g["names"]]}
            | {k: v for k, v in g.items() if k != "names"}
            for g in self.groups
        ]

    def first(self, steps):
        """Return the trajectory cut after ``steps`` steps."""
        return replace(self, gradients=self.gradients[:steps])


def hard(seed=0, steps=50, maximize_second=False, weight_decay=(0.01, 0.1), lr=(0.02, 0.005)):
    """Return the hard trajectory; with ``maximize_second`` the second group climbs."""
    rng = np.random.default_rng(seed)
    weights = {n: _exact(0.5 * rng.standard_normal(s)) for n, (s, _) in PARAMETERS.items()}
    gradients = [
        {n: _gradient(rng, n, shape, t) for n, (shape, _) in PARAMETERS.items()}
        for t in range(steps)
    ]
    groups = tuple(
        {
            "names": tuple(n for n, (_, group) in PARAMETERS.items() if group == i),
            "lr": lr[i],
            "weight_decay": weight_decay[i],
        }
        for i in (0, 1)
    )
    if maximize_second:
        groups = ({**groups[0], "maximize": False}, {**groups[1], "maximize": True})
    return Trajectory(weights, gradients, groups, {25: 0.3}, resume_at=31)


def _exact(array):
    return array.astype(np.float32).astype(np.float64)


def _gradient(rng, name, shape, t):
    """Draw always, so that a hole in one parameter shifts no number of another."""
    g = rng.standard_normal(shape) + 0.3  # a mean, so that masks and averages have something to say
    if t in NO_GRADIENT.get(name, ()):
        return None
    if name == "still" or t in ZERO_GRADIENT.get(name, ()):
        return np.zeros(shape)
    if t in HUGE_GRADIENT.get(name, ()):
        g *= 1e4
    return _exact(g * 1e-7 if name == "tiny" else g)


# --- walking -------------------------------------------------------------------------------------


def tensors(weights, dtype):
    """Return fresh torch parameters with these values."""
    return {n: torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for n, w in weights.items()}


def walk(make, trajectory, dtype=torch.float64, resume_with=None):
    """Return the weights after every step of ``make(groups)``.

    At ``resume_at`` the optimizer is saved to bytes and a new one, over new tensors, loads it;
    ``resume_with`` makes that new one, so that one library can continue what another began.
    """
    weights = tensors(trajectory.weights, dtype)
    optimizer = make(trajectory.group_dicts(weights))
    path = []
    for t, gradients in enumerate(trajectory.gradients):
        if t == trajectory.resume_at:
            weights, optimizer = _resumed(optimizer, weights, trajectory, resume_with or make)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * trajectory.lr_changes.get(t, 1.0)
        step_with(optimizer, weights, gradients)
        path.append({n: w.detach().double().numpy().copy() for n, w in weights.items()})
    return path


def step_with(optimizer, weights, gradients):
    """Set the gradients, step, and see that the gradients are the caller's still."""
    for name, w in weights.items():
        g = gradients.get(name)
        w.grad = None if g is None else torch.tensor(g, dtype=w.dtype)
    before = {n: (w.grad, None if w.grad is None else w.grad.clone()) for n, w in weights.items()}
    optimizer.step()
    for name, (grad, value) in before.items():
        assert weights[name].grad is grad, f"{name}: step() replaced the gradient"
        if grad is not None:
            same = torch.equal(_bits(grad), _bits(value))
            assert same, f"{name}: step() wrote to the gradient"


def through_bytes(state_dict):
    """Return the state dict as a checkpoint file gives it back, under ``weights_only``."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _resumed(optimizer, weights, trajectory, make):
    saved = through_bytes(optimizer.state_dict())
    weights = {n: torch.nn.Parameter(w.detach().clone()) for n, w in weights.items()}
    resumed = make(trajectory.group_dicts(weights))
    resumed.load_state_dict(saved)
    return weights, resumed


def follow(reference, trajectory):
    """Return the weights after every step of a NumPy reference (which is not resumed)."""
    path = []
    for t, gradients in enumerate(trajectory.gradients):
        for group in reference.groups:
            group["lr"] *= trajectory.lr_changes.get(t, 1.0)
        reference.step(gradients)
        path.append({n: w.copy() for n, w in reference.w.items()})
    return path


# --- comparing -----------------------------------------------------------------------------------


def assert_same_path(
    ours, theirs, trajectory, relative, dtype=torch.float64, doubt=None, roundings=1
):
    """Compare two paths step by step, tensor by tensor.

    The allowance is ``relative`` times the largest change of THAT tensor so far (stricter than
    that of all tensors), plus ``roundings`` of the stored weight per step, and one of the factor that
    decay multiplies it with (all that there is where a first step only decays). Elements in ``doubt``
    are left out; the caller says how many there may be.
    """
    assert len(ours) == len(theirs) == len(trajectory.gradients)
    change = dict.fromkeys(trajectory.weights, 0.0)
    size = {n: _largest(w) for n, w in trajectory.weights.items()}
    for t, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name, start in trajectory.weights.items():
            change[name] = max(change[name], _largest(b[name] - start))
            size[name] = max(size[name], _largest(b[name]))
            allowed = relative * change[name]
            allowed += (roundings * (t + 1) + 1) * UNIT[dtype] * size[name]
            off = np.abs(a[name] - b[name])
            if doubt is not None:
                off = np.where(doubt[name], 0.0, off)
            worst = off.max() if off.size else 0.0
            assert worst <= allowed, (
                f"step {t + 1}, {name}: off by {worst:.3g}, allowed {allowed:.3g} "
                f"({worst / max(change[name], 1e-300):.3g} of its largest change)"
            )


def _largest(array):
    return float(np.abs(array).max()) if array.size else 0.0


def assert_same_bits(ours, theirs):
    """Compare two structures of tensors, containers and plain values, without any allowance."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        assert ours.dtype == theirs.dtype, (ours.dtype, theirs.dtype)
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        assert torch.equal(_bits(ours), _bits(theirs)), f"{ours} differs from {theirs}"
    elif isinstance(theirs, dict):
        assert set(ours) == set(theirs), set(ours) ^ set(theirs)
        for key, value in theirs.items():
            assert_same_bits(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same_bits(a, b)
    else:
        assert ours == theirs, (ours, theirs)


def _bits(tensor):
    """Return the bytes in logical order, every NaN as the same one."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.is_floating_point() or flat.is_complex():
        flat = torch.where(flat != flat, torch.full_like(flat, float("nan")), flat)
    return flat.view(torch.uint8)


def snapshot(optimizer):
    """Return a deep copy of all that a step may change: parameters, state, groups."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy(
        {
            "parameters": [p.detach().clone() for p in parameters],
            "state": [dict(optimizer.state.get(p, {})) for p in parameters],
            "groups": [
                {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
            ],
        }
    )


def pairs(names):
    """Return all unordered pairs of different names."""
    return list(itertools.combinations(names, 2))
