"""Options combine on every rule, in the table's order, whatever the order of the user's list."""

import numpy as np
import pytest
import torch

import thalweg
from oracles import AdaBound, Adam, Lion, NovoGrad, Options, RAdam, Reference, Sgd
from subjects import BACKENDS
from thalweg import options as opt
from thalweg.errors import ThalwegError
from trajectories import Trajectory, assert_same_bits, assert_same_path, pairs, step_with, tensors

# name -> (kind: one of each kind at most, how to make it, what the reference is told)
OPTIONS = {
    "l2": ("decay", lambda: opt.Decay("l2"), {"decay": "l2"}),
    "decoupled": ("decay", lambda: opt.Decay("decoupled"), {"decay": "decoupled"}),
    "independent": ("decay", lambda: opt.Decay("independent"), {"decay": "independent"}),
    "direction": ("decay", lambda: opt.Decay("direction"), {"decay": "direction"}),
    "proximal": ("decay", lambda: opt.Decay("proximal"), {"decay": "proximal"}),
    "cautious decay": (
        "decay",
        lambda: opt.Decay("decoupled", cautious=True),
        {"decay": "decoupled", "cautious_decay": True},
    ),
    "cautious independent decay": (
        "decay",
        lambda: opt.Decay("independent", cautious=True),
        {"decay": "independent", "cautious_decay": True},
    ),
    "maximize": ("maximize", lambda: opt.Maximize(), {"maximize": True}),
    "clip value": ("clip_value", lambda: opt.ClipValue(0.75), {"clip_value": 0.75}),
    "clip norm": ("clip_norm", lambda: opt.ClipNorm(2.0), {"clip_norm": 2.0}),
    "centralize": ("centralize", lambda: opt.Centralize(), {"centralize": True}),
    "cautious": ("cautious", lambda: opt.Cautious(rescale=False), {"cautious": "plain"}),
    "cautious rescaled": ("cautious", lambda: opt.Cautious(), {"cautious": "rescaled"}),
    "trust ratio": ("trust_ratio", lambda: opt.TrustRatio(), {"trust_ratio": True}),
    "lookahead": ("lookahead", lambda: opt.Lookahead(k=2, alpha=0.3), {"lookahead": (2, 0.3)}),
    "average": ("average", lambda: opt.Average(0.8), {"average": 0.8}),
    "skip": ("skip", lambda: opt.SkipNonFinite(), {"skip_non_finite": True}),
}
# name -> (class, arguments, reference rule, its options, its numbers)
RULES = {
    "sgd": ("SGD", {"momentum": 0.9}, Sgd, {}, {"momentum": 0.9}),
    "adam": ("Adam", {}, Adam, {}, {}),
    "adamw": ("AdamW", {}, Adam, {"decay": "decoupled"}, {}),
    "radam": ("RAdam", {}, RAdam, {}, {}),
    "lion": ("Lion", {}, Lion, {"decay": "decoupled"}, {}),
    "ranger": (
        "Ranger",
        {"k": 3, "alpha": 0.6},
        RAdam,
        {"decay": "decoupled", "centralize": True, "lookahead": (3, 0.6)},
        {"betas": (0.95, 0.999), "eps": 1e-5},
    ),
    # a rule that returns the step itself, one that places its decay itself, and decay in the direction
    "adabound": ("AdaBound", {"gamma": 0.1}, AdaBound, {}, {"gamma": 0.1}),
    "novograd": ("NovoGrad", {}, NovoGrad, {"decay": "own"}, {}),
    "lamb": ("LAMB", {}, Adam, {"decay": "direction", "trust_ratio": True}, {"eps": 1e-6}),
}
PAIRS = pairs(OPTIONS)
STEPS = 7  # RAdam changes its branch at the sixth


def allowed(names):
    """Tell whether there is at most one of a kind (Ranger's own parts give way to the user's)."""
    kinds = [OPTIONS[n][0] for n in names]
    return len(set(kinds)) == len(kinds)


def short(nan_at=None):
    """Seven steps of two groups; one parameter misses a step, one step may hold a nan."""
    rng = np.random.default_rng(11)
    shapes = {"a": (5, 3), "b": (4,), "c": (2, 3, 2), "d": ()}
    weights = {n: rng.standard_normal(s) for n, s in shapes.items()}
    gradients = [{n: rng.standard_normal(s) + 0.2 for n, s in shapes.items()} for _ in range(STEPS)]
    gradients[2]["b"] = None
    gradients[1]["c"] = np.zeros(shapes["c"])
    if nan_at is not None:
        gradients[nan_at]["a"][1, 1] = np.nan
    groups = (
        {"names": ("a", "b"), "lr": 0.05, "weight_decay": 0.2},
        {"names": ("c", "d"), "lr": 0.02, "weight_decay": 0.05},
    )
    return Trajectory(weights, gradients, groups)


def walk(optimizer, weights, trajectory):
    path = []
    for t, gradients in enumerate(trajectory.gradients):
        for group in optimizer.param_groups:
            group["lr"] *= 0.7 if t == 4 else 1.0
        step_with(optimizer, weights, gradients)
        path.append({n: w.detach().double().numpy().copy() for n, w in weights.items()})
    return path


def ours(rule, names, trajectory, dtype=torch.float64, **backend):
    cls, kwargs, *_ = RULES[rule]
    weights = tensors(trajectory.weights, dtype)
    options = [OPTIONS[n][1]() for n in names]
    groups = trajectory.group_dicts(weights)
    optimizer = getattr(thalweg, cls)(groups, **kwargs, options=options, **backend)
    return walk(optimizer, weights, trajectory), optimizer


def reference(rule, names, trajectory):
    _, _, oracle, fixed, hypers = RULES[rule]
    chosen = dict(fixed)
    for n in names:
        chosen |= OPTIONS[n][2]
    built = Reference(oracle, trajectory.weights, trajectory.groups, Options(**chosen), **hypers)
    path = []
    for t, gradients in enumerate(trajectory.gradients):
        for group in built.groups:
            group["lr"] *= 0.7 if t == 4 else 1.0
        built.step(gradients)
        path.append({n: w.copy() for n, w in built.w.items()})
    return path, built


def compare(rule, names, **backend):
    """Hold ours, with the options in the user's order and in the opposite one, to the reference."""
    trajectory = short(nan_at=3 if "skip" in names else None)
    wanted, oracle = reference(rule, names, trajectory)
    path, optimizer = ours(rule, names, trajectory, **backend)
    assert_same_path(path, wanted, trajectory, 1e-10)
    assert optimizer.skipped_steps == oracle.skipped
    backwards, _ = ours(rule, names[::-1], trajectory, **backend)
    for a, b in zip(path, backwards, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [p for p in PAIRS if allowed(p)], ids="+".join)
@pytest.mark.parametrize(
    ("rule", "backend"),
    [*((rule, "eager") for rule in RULES), ("lion", "foreach"), ("adamw", "fused")],
)
def test_pairs(rule, backend, names):
    """Every rule on the reference backend; one rule each on the others, which see all options too."""
    compare(rule, names, **BACKENDS[backend])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_each_alone(rule, name, backend):
    compare(rule, (name,), **BACKENDS[backend])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decay", ["l2", "cautious decay", "independent"])
@pytest.mark.parametrize("rule", RULES)
def test_everything_at_once(rule, decay, backend):
    names = ["average", "skip", "lookahead", "cautious rescaled", "centralize", "clip norm"]
    names += ["clip value", "maximize", decay]
    compare(rule, names, **BACKENDS[backend])


@pytest.mark.parametrize("names", [p for p in PAIRS if not allowed(p)], ids="+".join)
def test_two_of_a_kind_are_refused_at_construction(names):
    for rule in RULES:
        p = torch.nn.Parameter(torch.ones(2, 2))
        with pytest.raises(ThalwegError) as caught:
            getattr(thalweg, RULES[rule][0])([p], options=[OPTIONS[n][1]() for n in names])
        assert isinstance(caught.value, ValueError)


# --- the comparison can fail ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "skip"])
def test_the_reference_feels_every_option(name):
    """Each option moves the reference visibly, so a kernel that ignored it would be seen."""
    if name == "average":
        pytest.skip("moves no weight; its slot is compared elsewhere")
    trajectory = short()
    rule = "adamw" if name == "l2" else "adam"
    with_it, _ = reference(rule, (name,), trajectory)
    without, _ = reference(rule, (), trajectory)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(without, with_it, trajectory, 1e-3)


def test_the_order_of_stations_matters_to_the_reference():
    """Clip by norm before centralizing is not the same as after: the fixed order is a statement."""
    trajectory = short()
    wanted, _ = reference("sgd", ("clip norm", "centralize"), trajectory)

    class Backwards(Reference):
        def step(self, grads):
            live = {n: np.array(g, dtype=float) for n, g in grads.items() if g is not None}
            for n, g in live.items():
                if g.ndim >= 2:
                    live[n] = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
            super().step(live)

    other = Backwards(
        Sgd, trajectory.weights, trajectory.groups, Options(clip_norm=2.0), momentum=0.9
    )
    path = []
    for t, gradients in enumerate(trajectory.gradients):
        for group in other.groups:
            group["lr"] *= 0.7 if t == 4 else 1.0
        other.step(gradients)
        path.append({n: w.copy() for n, w in other.w.items()})
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(path, wanted, trajectory, 1e-3)


# --- options as data ------------------------------------------------------------------------------


def test_options_dissolve_into_plain_group_keys():
    p = torch.nn.Parameter(torch.ones(2, 2))
    chosen = [opt.Lookahead(k=3, alpha=0.25), opt.ClipNorm(1.5), opt.Average(0.9), opt.Cautious()]
    group = thalweg.AdamW([p], options=chosen).param_groups[0]
    assert set(group["options"]) == {"lookahead", "clip_norm", "average", "cautious"}
    assert all(type(name) is str for name in group["options"])
    assert (group["lookahead_k"], group["lookahead_alpha"]) == (3, 0.25)
    assert group["clip_norm_max_norm"] == 1.5
    assert group["average_decay"] == 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_may_have_options_of_their_own(backend):
    """Each group then moves as it does in an optimizer of its own."""
    trajectory = short()
    per_group = (
        [opt.Cautious(), opt.Lookahead(k=2)],
        [opt.Decay("independent"), opt.ClipValue(0.5)],
    )
    weights = tensors(trajectory.weights, torch.float64)
    groups = trajectory.group_dicts(weights)
    for group, options in zip(groups, per_group, strict=True):
        group["options"] = options
    path = walk(thalweg.AdamW(groups, **BACKENDS[backend]), weights, trajectory)
    for i, options in enumerate(per_group):
        alone = tensors(trajectory.weights, torch.float64)
        group = trajectory.group_dicts(alone)[i]
        own = {n: alone[n] for n in trajectory.groups[i]["names"]}
        wanted = walk(thalweg.AdamW([group], options=options, **BACKENDS[backend]), own, trajectory)
        for a, b in zip(path, wanted, strict=True):
            for name in own:
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_schedule_may_drive_an_options_number(backend):
    trajectory = short()
    oracle = Reference(
        Adam,
        trajectory.weights,
        trajectory.groups,
        Options(decay="decoupled", clip_norm=2.0, lookahead=(2, 0.3)),
    )
    weights = tensors(trajectory.weights, torch.float64)
    optimizer = thalweg.AdamW(
        trajectory.group_dicts(weights),
        options=[opt.ClipNorm(2.0), opt.Lookahead(k=2, alpha=0.3)],
        **BACKENDS[backend],
    )
    for t, gradients in enumerate(trajectory.gradients):
        limit, k = 2.0 / (t + 1), 2 if t < 3 else 3
        for group in optimizer.param_groups:
            group["clip_norm_max_norm"], group["lookahead_k"] = limit, k
        oracle.options = Options(decay="decoupled", clip_norm=limit, lookahead=(k, 0.3))
        step_with(optimizer, weights, gradients)
        oracle.step(gradients)
        for name, w in weights.items():
            np.testing.assert_allclose(w.detach().numpy(), oracle.w[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norm_clipping_equals_torchs_before_the_step(backend):
    """One norm over all parameters of all groups, as ``clip_grad_norm_`` over the model."""
    trajectory = short()
    mine, reference_ = (tensors(trajectory.weights, torch.float64) for _ in range(2))
    optimizer = thalweg.AdamW(
        trajectory.group_dicts(mine), options=[opt.ClipNorm(1.5)], **BACKENDS[backend]
    )
    theirs = torch.optim.AdamW(trajectory.group_dicts(reference_))
    for gradients in trajectory.gradients:
        step_with(optimizer, mine, gradients)
        for name, w in reference_.items():
            g = gradients[name]
            w.grad = None if g is None else torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(list(reference_.values()), 1.5)
        theirs.step()
    for name, w in reference_.items():
        torch.testing.assert_close(mine[name], w, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", ["AdamW", "Lion", "SGD", "RAdam"])
def test_bf16_state(cls, backend):
    """Half the bytes, near the same path, kept by a checkpoint and by a resume to the bit."""
    kwargs = {"momentum": 0.9} if cls == "SGD" else {}
    paths = {}
    for name, options in (("narrow", [opt.StateDtype(torch.bfloat16)]), ("wide", [])):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(40, 30))
        start = p.detach().clone()
        optimizer = getattr(thalweg, cls)([p], 0.01, **kwargs, options=options, **BACKENDS[backend])
        for _ in range(10):
            p.grad = torch.randn(40, 30)
            optimizer.step()
        paths[name] = (p.detach() - start, optimizer, p)
    (narrow, optimizer, p), (wide, _, _) = paths["narrow"], paths["wide"]
    slots = {k: v for k, v in optimizer.state[p].items() if v.shape == p.shape}
    assert slots
    assert all(v.dtype == torch.bfloat16 for v in slots.values())
    assert (narrow - wide).norm() < 0.1 * wide.norm()
    assert not torch.equal(narrow, wide)

    other_p = torch.nn.Parameter(p.detach().clone())
    other = getattr(thalweg, cls)(
        [other_p], 0.01, **kwargs, options=[opt.StateDtype(torch.bfloat16)], **BACKENDS[backend]
    )
    other.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        p.grad = torch.randn(40, 30)
        other_p.grad = p.grad.clone()
        optimizer.step()
        other.step()
    assert_same_bits(other_p, p)
    assert_same_bits(dict(other.state[other_p]), dict(optimizer.state[p]))


# --- by name --------------------------------------------------------------------------------------

NAMED = {
    "lion(betas=(0.95, 0.98)) + cautious + lookahead(k=2)": lambda g: thalweg.Lion(
        g, betas=(0.95, 0.98), options=[opt.Cautious(), opt.Lookahead(k=2)]
    ),
    "AdamW + clip_norm(1.5)": lambda g: thalweg.AdamW(g, options=[opt.ClipNorm(1.5)]),
    "sgd(momentum=0.9) + average(decay=0.5) + centralize": lambda g: thalweg.SGD(
        g, momentum=0.9, options=[opt.Average(0.5), opt.Centralize()]
    ),
    "ranger": lambda g: thalweg.Ranger(g),
}


@pytest.mark.parametrize("text", NAMED)
def test_a_string_names_the_same_optimizer(text):
    trajectory = short()
    paths = []
    for build in (lambda g: thalweg.create_optimizer(g, text, lr=0.03), NAMED[text]):
        weights = tensors(trajectory.weights, torch.float32)
        paths.append(walk(build(trajectory.group_dicts(weights)), weights, trajectory))
    for a, b in zip(*paths, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
