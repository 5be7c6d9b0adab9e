"""What the rules of 2017 to 2024 promise beyond their formulas."""

import inspect

import pytest
import torch

import thalweg
from subjects import BACKENDS
from thalweg import options as opt
from trajectories import through_bytes

# The authors' names, order and defaults, as far as we have them.
AUTHORS = {
    "SignSGD": {"lr": 0.01, "weight_decay": 0.0},
    "Signum": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0},
    "AdaBound": {
        "lr": 1e-3, "betas": (0.9, 0.999), "final_lr": 0.1, "gamma": 1e-3, "eps": 1e-8,
        "weight_decay": 0, "amsbound": False,
    },
    "Adan": {
        "lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0,
        "max_grad_norm": 0.0, "no_prox": False,
    },
    "AdaBelief": {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0, "amsgrad": False,
        "weight_decouple": True,
    },
    "ADOPT": {
        "lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6, "clip_exp": 0.25, "weight_decay": 0.0,
        "decouple": False,
    },
    "AdEMAMix": {
        "lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "alpha": 2.0, "beta3_warmup": None,
        "alpha_warmup": None, "eps": 1e-8, "weight_decay": 0,
    },
    "StableAdamW": {
        "lr": 0.002, "weight_decay": 0.2, "betas": (0.9, 0.99), "eps": 1e-8, "clip_thresh": 1.0,
    },
    "NovoGrad": {
        "lr": 1e-3, "betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0, "grad_averaging": False,
    },
    "LARS": {
        "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "eeta": 1e-3, "epsilon": 0.0,
    },
    "LAMB": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0},
}  # fmt: skip
AUTHORS["AMSBound"] = {k: v for k, v in AUTHORS["AdaBound"].items() if k != "amsbound"}
FLAGS = ["foreach", "maximize", "capturable", "differentiable", "fused", "options"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def weight(shape=(3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))


def step(optimizer, p, g):
    before = p.detach().clone()
    p.grad = g if isinstance(g, torch.Tensor) else torch.full_like(p, g)
    optimizer.step()
    return p.detach() - before


@pytest.mark.parametrize("name", AUTHORS)
def test_signatures_are_the_authors(name):
    found = dict(inspect.signature(getattr(thalweg, name)).parameters)
    assert found.pop("params")
    positional = {k: p.default for k, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(AUTHORS[name].items())
    assert [k for k, p in found.items() if p.kind is p.KEYWORD_ONLY] == FLAGS


@pytest.mark.parametrize("name", AUTHORS)
def test_no_argument_is_lost_on_the_way(name):
    """Each argument, changed alone, changes what the group holds."""
    p = weight()
    cls = getattr(thalweg, name)
    plain = _plain(cls([p]).param_groups[0])
    other = {bool: lambda x: not x, tuple: lambda x: (0.5, *x[1:]), type(None): lambda x: 7}
    values = {k: other.get(type(v), lambda x: x + 0.0625)(v) for k, v in AUTHORS[name].items()}
    for key, value in {**values, "maximize": True, "capturable": True, "foreach": True}.items():
        assert _plain(cls([p], **{key: value}).param_groups[0]) != plain, key


def _plain(group):
    return {k: v for k, v in group.items() if k not in ("params", "base_lr")}


# --- AdaBound -------------------------------------------------------------------------------------


def test_adabound_needs_a_learning_rate_to_scale_its_bounds_with():
    with pytest.raises(ValueError, match="learning rate at construction, which is 0"):
        thalweg.AdaBound([weight()], lr=0.0)
    with pytest.raises(ValueError, match=r"Invalid gamma parameter: 0\.0.*\(0, 1\)"):
        thalweg.AdaBound([weight()], gamma=0.0)


@every_backend
def test_adabound_ends_as_sgd_with_momentum(backend):
    """Bounds that have closed: the step is final_lr times the mean, whatever the mean square."""
    p = weight()
    optimizer = thalweg.AdaBound([p], lr=1e-3, final_lr=0.5, gamma=0.999, **BACKENDS[backend])
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state[p]["step"].fill_(10.0**7)
    moved = step(optimizer, p, torch.randn_like(p))
    torch.testing.assert_close(moved, -0.5 * optimizer.state[p]["exp_avg"], rtol=1e-6, atol=0)


@every_backend
def test_adabounds_bounds_follow_the_schedule_after_a_resume(backend):
    """The checkpoint's learning rate at construction counts, not that of the new optimizer."""
    p = weight()
    first = thalweg.AdaBound([p], lr=0.1, gamma=0.5, **BACKENDS[backend])
    step(first, p, 1.0)
    first.param_groups[0]["lr"] = 0.01
    q = torch.nn.Parameter(p.detach().clone())
    second = thalweg.AdaBound([q], lr=0.7, gamma=0.5, **BACKENDS[backend])
    second.load_state_dict(through_bytes(first.state_dict()))
    assert second.param_groups[0]["base_lr"] == 0.1
    assert torch.equal(step(first, p, 2.0), step(second, q, 2.0))


# --- decay that is the rule's own -----------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("name", ["LARS", "NovoGrad", "StableAdamW"])
def test_a_chosen_style_takes_the_place_of_the_rules_own(name, backend):
    cls = getattr(thalweg, name)
    p, q, r = weight(), weight(), weight()
    bare = cls([p], lr=0.1, weight_decay=0.0, **BACKENDS[backend])
    own = cls([q], lr=0.1, weight_decay=0.5, **BACKENDS[backend])
    beside = cls(
        [r], lr=0.1, weight_decay=0.5, options=[opt.Decay("decoupled")], **BACKENDS[backend]
    )
    start = r.detach().clone()
    moved = [step(o, x, 1.0) for o, x in ((bare, p), (own, q), (beside, r))]
    assert not torch.equal(moved[0], moved[1])
    torch.testing.assert_close(moved[2], moved[0] - 0.05 * start, rtol=1e-12, atol=1e-14)


def test_a_group_of_such_a_rule_decays_itself_in_another_optimizer():
    p, q = weight(), weight()
    optimizer = thalweg.AdamW([weight(seed=1)], lr=0.1, weight_decay=0.5)
    optimizer.add_param_group({"params": [p], "rule": "lars"})
    alone = thalweg.LARS([q], lr=0.1, weight_decay=0.5)
    assert torch.equal(step(optimizer, p, 1.0), step(alone, q, 1.0))


@pytest.mark.parametrize("style", ["l2", "direction"])
def test_only_what_shrinks_beside_the_step_can_be_masked(style):
    with pytest.raises(ValueError, match="use 'decoupled'"):
        opt.Decay(style, cautious=True)


@every_backend
def test_proximal_decay_may_be_cautious(backend):
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    options = [opt.Decay("proximal", cautious=True)]
    optimizer = thalweg.SGD([p], lr=0.5, weight_decay=2.0, options=options, **BACKENDS[backend])
    step(optimizer, p, 1.0)
    assert p.tolist() == [(1.0 - 0.5) / 2.0, -1.0 - 0.5]


# --- by tensor ------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("name", ["LAMB", "AdaBound", "Lion"])
def test_with_a_trust_ratio_a_step_is_a_share_of_the_matrix(name, backend):
    p, bias = weight(), weight((4,))
    options = [opt.TrustRatio()]
    cls = getattr(thalweg, name)
    optimizer = cls([p, bias], lr=0.25, options=options, **BACKENDS[backend])
    plain = thalweg.Adam if name == "LAMB" else cls
    other = torch.nn.Parameter(bias.detach().clone())
    reference = plain([other], lr=0.25, **({"eps": 1e-6} if name == "LAMB" else {}))
    bias.grad = other.grad = torch.full_like(bias, 3.0)
    size = p.detach().norm()
    moved = step(optimizer, p, torch.randn_like(p))
    reference.step()
    torch.testing.assert_close(moved.norm(), 0.25 * size, rtol=1e-12, atol=0)
    torch.testing.assert_close(bias, other, rtol=1e-12, atol=0)


@every_backend
@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_a_ratio_with_nothing_to_measure_is_one(name, backend):
    """A zero parameter moves, a zero gradient moves nothing, an empty tensor is no error."""
    p, q, empty = weight(), weight(), torch.nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    with torch.no_grad():
        p.zero_()
    optimizer = getattr(thalweg, name)([p, q, empty], lr=0.5, weight_decay=0.0, **BACKENDS[backend])
    q.grad, empty.grad = torch.zeros_like(q), torch.zeros_like(empty)
    before = q.detach().clone()
    moved = step(optimizer, p, 1.0)
    torch.testing.assert_close(moved, torch.full_like(p, -0.5), rtol=1e-5, atol=0)
    assert torch.equal(q, before)


@every_backend
def test_novograd_keeps_one_slot_and_one_number(backend):
    p = weight().float().detach().requires_grad_()
    optimizer = thalweg.NovoGrad([p], lr=0.1, **BACKENDS[backend])
    g = torch.zeros_like(p)
    g[0, 0], g[1, 1] = 1.0, 2.0**-13
    step(optimizer, p, g)
    state = optimizer.state[p]
    assert {k: (v.dtype, v.shape) for k, v in state.items()} == {
        "exp_avg": (torch.float32, p.shape),
        "exp_avg_sq": (torch.float64, torch.Size([])),
    }
    assert state["exp_avg_sq"].item() == 1.0 + 2.0**-26  # float32 would have lost it


@every_backend
def test_stableadamw_is_not_thrown_by_a_spike(backend):
    """After a quiet spell one gradient a thousand times larger: the step stays about lr."""
    moved = {}
    for cls in (thalweg.StableAdamW, thalweg.AdamW):
        p = weight()
        optimizer = cls([p], lr=0.1, betas=(0.0, 0.99), weight_decay=0.0, **BACKENDS[backend])
        for _ in range(50):
            step(optimizer, p, 1e-3)
        moved[cls] = step(optimizer, p, 1.0).abs().max().item()
    assert moved[thalweg.StableAdamW] < 0.11
    assert moved[thalweg.AdamW] > 0.6


# --- beginnings -----------------------------------------------------------------------------------


@every_backend
def test_adopts_first_gradient_only_starts_the_mean_square(backend):
    p = weight()
    optimizer = thalweg.ADOPT([p], lr=0.1, **BACKENDS[backend])
    assert not step(optimizer, p, 3.0).any()
    torch.testing.assert_close(optimizer.state[p]["exp_avg_sq"], torch.full_like(p, 9.0))
    assert not optimizer.state[p]["exp_avg"].any()
    torch.testing.assert_close(step(optimizer, p, 300.0), torch.full_like(p, -0.01))  # clipped to 1


def test_ademamix_warmups_may_be_none_zero_or_a_number():
    p = weight()
    for given, kept in ((None, 0), (0, 0), (10, 10)):
        optimizer = thalweg.AdEMAMix([p], alpha_warmup=given, beta3_warmup=given)
        group = optimizer.param_groups[0]
        assert (group["alpha_warmup"], group["beta3_warmup"]) == (kept, kept)
    with pytest.raises(ValueError, match="alpha_warmup"):
        thalweg.AdEMAMix([p], alpha_warmup=-1)


def test_adans_arguments_are_options():
    group = thalweg.Adan([weight()], no_prox=True, max_grad_norm=2.5).param_groups[0]
    assert group["decay_style"] == "decoupled"
    assert group["clip_norm_max_norm"] == 2.5
    assert "decay_style" not in thalweg.Adan([weight()]).param_groups[0]
    with pytest.raises(ValueError, match="max_grad_norm"):
        thalweg.Adan([weight()], max_grad_norm=-1.0)


@every_backend
def test_signum_without_momentum_is_signsgd(backend):
    p, q = weight(), weight()
    first = thalweg.Signum([p], momentum=0.0, weight_decay=0.5, **BACKENDS[backend])
    second = thalweg.SignSGD([q], weight_decay=0.5, **BACKENDS[backend])
    for seed in range(3):
        g = weight(seed=seed).detach()
        assert torch.equal(step(first, p, g), step(second, q, g))
    assert not second.state
