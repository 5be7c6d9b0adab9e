"""What torch.optim has, ours does alike: numbers, signatures, words of errors, checkpoints."""

import inspect
import warnings

import numpy as np
import pytest
import torch

import thalweg
from peers import from_package, from_timm
from trajectories import assert_same_path, hard, step_with, tensors, through_bytes, walk

RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-5}
BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {},
}
CASES = {
    "sgd": ("SGD", {}),
    "sgd momentum": ("SGD", {"momentum": 0.9}),
    "sgd dampening": ("SGD", {"momentum": 0.8, "dampening": 0.3}),
    "sgd nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "sgd maximize": ("SGD", {"momentum": 0.9, "maximize": True}),
    "adam": ("Adam", {}),
    "adam betas eps": ("Adam", {"betas": (0.7, 0.95), "eps": 1e-3}),
    "adam zero betas": ("Adam", {"betas": (0.0, 0.5)}),
    "adam amsgrad": ("Adam", {"amsgrad": True}),
    "adam maximize": ("Adam", {"maximize": True, "amsgrad": True}),
    "adam decoupled": ("Adam", {"decoupled_weight_decay": True}),
    "adamw": ("AdamW", {}),
    "adamw amsgrad": ("AdamW", {"amsgrad": True}),
    "adamw maximize": ("AdamW", {"maximize": True}),
    "radam": ("RAdam", {}),
    "radam decoupled": ("RAdam", {"decoupled_weight_decay": True}),
    "radam maximize": ("RAdam", {"maximize": True}),
    "radam short memory": ("RAdam", {"betas": (0.5, 0.6)}),
    "adafactor": ("Adafactor", {}),
    "adafactor numbers": (
        "Adafactor",
        {"beta2_decay": -0.5, "eps": (1e-4, 0.1), "d": 2.0, "weight_decay": 0.1},
    ),
    "adafactor maximize": ("Adafactor", {"maximize": True, "lr": 1.0}),
}
CASES |= {
    "adagrad": ("Adagrad", {}),
    "adagrad decay start": ("Adagrad", {"lr_decay": 0.5, "initial_accumulator_value": 0.1}),
    "adagrad maximize": ("Adagrad", {"maximize": True, "eps": 1e-3}),
    "adadelta": ("Adadelta", {}),
    "adadelta rho": ("Adadelta", {"rho": 0.95, "eps": 1e-3}),
    "adadelta maximize": ("Adadelta", {"maximize": True}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop momentum": ("RMSprop", {"momentum": 0.9, "alpha": 0.9}),
    "rmsprop centered": ("RMSprop", {"momentum": 0.1, "centered": True}),
    "rmsprop maximize": ("RMSprop", {"maximize": True, "centered": True}),
    "adamax": ("Adamax", {}),
    "adamax betas eps": ("Adamax", {"betas": (0.7, 0.95), "eps": 1e-3}),
    "adamax maximize": ("Adamax", {"maximize": True}),
    "nadam": ("NAdam", {}),
    "nadam decoupled": ("NAdam", {"decoupled_weight_decay": True, "momentum_decay": 6e-3}),
    "nadam maximize": ("NAdam", {"maximize": True, "momentum_decay": 0.1, "betas": (0.7, 0.9)}),
    "asgd": ("ASGD", {}),
    "asgd lambd": ("ASGD", {"lambd": 0.1, "alpha": 0.5}),
    "asgd averaging": ("ASGD", {"t0": 10}),
    "asgd maximize": ("ASGD", {"maximize": True}),
    "rprop": ("Rprop", {}),
    "rprop etas": ("Rprop", {"etas": (0.3, 1.5)}),
    "rprop sizes": ("Rprop", {"step_sizes": (0.01, 0.05), "maximize": True}),
}
CLASSES = tuple(dict.fromkeys(cls for cls, _ in CASES.values()))


def hard_for(cls, **more):
    """Return the hard trajectory; torch's Rprop has no weight decay, where ours has."""
    return hard(**({"weight_decay": (0.0, 0.0)} if cls == "Rprop" else {}), **more)


def ours(name, **more):
    cls, kwargs = CASES[name]
    return lambda groups: getattr(thalweg, cls)(groups, **kwargs, **more)


def theirs(name):
    """torch's plain loop: its foreach SGD writes to the gradients under Nesterov momentum.

    It stays the plain loop after a checkpoint of ours that says otherwise: torch's ASGD computes eta in
    float32 under foreach, so that torch does not agree with itself.
    """
    cls, kwargs = CASES[name]

    class Plain(getattr(torch.optim, cls)):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                group["foreach"] = False

    return lambda groups: Plain(groups, **kwargs, foreach=False)


def assert_agrees(cls, mine, reference, trajectory, dtype=torch.float64):
    """Compare with torch's numbers; torch's ASGD rounds a weight twice a step, ours once."""
    roundings = 2 if cls == "ASGD" else 1
    assert_same_path(mine, reference, trajectory, RELATIVE[dtype], dtype, roundings=roundings)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_agree(name, backend, dtype):
    trajectory = hard_for(CASES[name][0])
    mine = walk(ours(name, **BACKENDS[backend]), trajectory, dtype)
    reference = walk(theirs(name), trajectory, dtype)
    assert_agrees(CASES[name][0], mine, reference, trajectory, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_groups_of_opposite_direction_agree(cls, backend):
    trajectory = hard_for(cls, seed=2, maximize_second=True)
    name = cls.lower()
    mine = walk(ours(name, **BACKENDS[backend]), trajectory)
    assert_agrees(cls, mine, walk(theirs(name), trajectory), trajectory)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_tensor_lr_agrees(cls, backend):
    """A tensor lr may be changed in place, by us not at all."""
    trajectory = hard_for(cls, steps=8)
    paths = []
    for module, kwargs in ((thalweg, BACKENDS[backend]), (torch.optim, {"foreach": False})):
        if kwargs.get("foreach") and module is thalweg:
            kwargs = {"fused": False}  # torch refuses a tensor lr under foreach=True
        weights = tensors(trajectory.weights, torch.float64)
        lr = torch.tensor(0.01, dtype=torch.float64)
        optimizer = getattr(module, cls)(list(weights.values()), lr=lr, **kwargs)
        path = []
        for t, gradients in enumerate(trajectory.gradients):
            lr.fill_(0.01 / (t + 1))
            step_with(optimizer, weights, gradients)
            assert lr.item() == 0.01 / (t + 1)
            path.append({n: w.detach().numpy().copy() for n, w in weights.items()})
        paths.append(path)
    assert_agrees(cls, *paths, trajectory)


@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW", "RAdam"])
def test_comparer_sees_swapped_betas_or_lost_momentum(cls):
    trajectory = hard()
    other = {"SGD": {"momentum": 0.89}, "Adafactor": {"beta2_decay": -0.79}}
    broken = other.get(cls, {"betas": (0.999, 0.9)})
    start = {"momentum": 0.9} if cls == "SGD" else {}
    mine = walk(lambda g: getattr(torch.optim, cls)(g, **broken), trajectory, torch.float32)
    reference = walk(lambda g: getattr(torch.optim, cls)(g, **start), trajectory, torch.float32)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(mine, reference, trajectory, 1e-5, torch.float32)


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_adafactors_relative_step_falls_with_the_root_of_t(backend):
    """With an lr of one the step is 1 / sqrt(t), which smaller ones do not reach in fifty steps."""
    trajectory = hard(lr=(1.0, 0.5), weight_decay=(0.0, 0.0))
    mine = walk(ours("adafactor", **BACKENDS[backend]), trajectory)
    assert_same_path(mine, walk(theirs("adafactor"), trajectory), trajectory, 1e-12)


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_torch_continues_our_run_and_we_continue_torchs(name, backend, dtype):
    trajectory = hard_for(CASES[name][0], seed=3)
    reference = walk(theirs(name), trajectory, dtype)
    mine = ours(name, **BACKENDS[backend])
    for first, second in ((mine, theirs(name)), (theirs(name), mine)):
        mixed = walk(first, trajectory, dtype, resume_with=second)
        assert_agrees(CASES[name][0], mixed, reference, trajectory, dtype)


def test_exchange_comparer_sees_a_lost_moment():
    class Forgets(torch.optim.AdamW):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            for state in self.state.values():
                state["exp_avg_sq"].mul_(1.01)

    trajectory = hard(seed=3)
    mixed = walk(torch.optim.AdamW, trajectory, torch.float32, resume_with=Forgets)
    reference = walk(torch.optim.AdamW, trajectory, torch.float32)
    with pytest.raises(AssertionError, match="step 32"):
        assert_same_path(mixed, reference, trajectory, 1e-5, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_state_has_torchs_keys_shapes_and_types(name, backend):
    weights = {"a": np.ones((3, 2)), "b": np.ones(4), "unused": np.ones(2)}
    gradients = {"a": np.ones((3, 2)), "b": np.full(4, 2.0)}
    dicts = []
    for make in (ours(name, **BACKENDS[backend]), theirs(name)):
        params = tensors(weights, torch.float32)
        optimizer = make(list(params.values()))
        step_with(optimizer, params, gradients)
        dicts.append((optimizer.state_dict(), dict(optimizer.state.get(params["unused"], {}))))
    (mine, mine_unused), (reference, reference_unused) = dicts
    assert set(mine_unused) == set(reference_unused)
    assert not mine_unused or CASES[name][0] == "Adagrad"  # whose state is made when it is
    assert mine["state"].keys() == reference["state"].keys()
    for index, state in reference["state"].items():
        state = {k: v for k, v in state.items() if v is not None}  # torch's momentum_buffer: None
        got = {k: v for k, v in mine["state"][index].items() if v is not None}
        assert got.keys() == state.keys()
        for key, value in state.items():
            assert (got[key].dtype, got[key].shape, got[key].device) == (
                value.dtype,
                value.shape,
                value.device,
            ), key
    for group, reference_group in zip(mine["param_groups"], reference["param_groups"], strict=True):
        assert reference_group.keys() <= group.keys()
        different = {"foreach", "fused"}
        for key in reference_group.keys() - different:
            assert group[key] == reference_group[key], key


@pytest.mark.parametrize("cls", CLASSES)
def test_loads_a_dict_of_an_older_torch(cls):
    """Without the newer group keys, and with the step as a plain number."""
    trajectory = hard_for(cls, steps=6)
    weights = tensors(trajectory.weights, torch.float64)
    source = getattr(torch.optim, cls)(trajectory.group_dicts(weights))
    for gradients in trajectory.gradients[:3]:
        step_with(source, weights, gradients)
    old = through_bytes(source.state_dict())
    for group in old["param_groups"]:
        for key in ("foreach", "maximize", "capturable", "differentiable", "fused"):
            group.pop(key, None)
        group.pop("decoupled_weight_decay", None)
    for state in old["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    copied = {n: torch.nn.Parameter(w.detach().clone()) for n, w in weights.items()}
    mine = getattr(thalweg, cls)(trajectory.group_dicts(copied))
    mine.load_state_dict(old)
    for gradients in trajectory.gradients[3:]:
        step_with(source, weights, gradients)
        step_with(mine, copied, gradients)
    for name, w in weights.items():
        torch.testing.assert_close(copied[name], w, rtol=1e-12, atol=1e-15)


def test_adam_and_adamw_dicts_keep_their_decay():
    """The group's flag says which decay: an AdamW dict in Adam goes on as AdamW, as in torch."""
    trajectory = hard(seed=4)
    for first, second in (("AdamW", "Adam"), ("Adam", "AdamW")):
        reference = walk(
            getattr(torch.optim, first), trajectory, resume_with=getattr(torch.optim, second)
        )
        mine = walk(getattr(thalweg, first), trajectory, resume_with=getattr(thalweg, second))
        assert_same_path(mine, reference, trajectory, 1e-12)


def lion_pytorch():
    return from_package("lion_pytorch", "Lion")


def timm():
    return from_timm("lion", "Lion")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("source", [lion_pytorch, timm])
def test_checkpoints_of_other_lions_go_on_as_there(source, backend):
    trajectory = hard(seed=5)
    other = source()
    reference = walk(other, trajectory)
    mixed = walk(other, trajectory, resume_with=lambda g: thalweg.Lion(g, **BACKENDS[backend]))
    assert_same_path(mixed, reference, trajectory, 1e-12)


@pytest.mark.parametrize("source", [lion_pytorch, timm])
def test_other_lions_load_ours(source):
    trajectory = hard(seed=6)
    reference = walk(thalweg.Lion, trajectory)
    mixed = walk(thalweg.Lion, trajectory, resume_with=source())
    assert_same_path(mixed, reference, trajectory, 1e-12)


# --- signatures -----------------------------------------------------------------------------------


def assert_same_signature(mine, reference):
    """Name by name, kind by kind, default by default; mine may end in more keywords."""
    got = list(inspect.signature(mine).parameters.values())
    wanted = list(inspect.signature(reference).parameters.values())
    for a, b in zip(got, wanted, strict=False):
        assert (a.name, a.kind, a.default) == (b.name, b.kind, b.default)
        assert type(a.default) is type(b.default) or a.default == b.default
    assert len(got) >= len(wanted)
    assert all(a.kind is a.KEYWORD_ONLY for a in got[len(wanted) :])


@pytest.mark.parametrize("cls", CLASSES)
def test_signature_is_torchs(cls):
    assert_same_signature(getattr(thalweg, cls), getattr(torch.optim, cls))
    assert "options" in inspect.signature(getattr(thalweg, cls)).parameters


@pytest.mark.parametrize(
    "broken",
    [
        lambda params, lr=1e-3, momentum=0.1: None,
        lambda params, momentum=0, lr=1e-3: None,
        lambda params, *, lr=1e-3, momentum=0: None,
        lambda params, lr=1e-3: None,
        lambda params, lr=1e-3, momentum=0, more=1: None,
    ],
    ids=["default", "order", "kind", "missing", "positional"],
)
def test_signature_comparer_can_fail(broken):
    with pytest.raises(AssertionError):
        assert_same_signature(broken, lambda params, lr=1e-3, momentum=0: None)


def signature_of(cls):
    return {
        n: (p.default, p.kind is p.KEYWORD_ONLY)
        for n, p in inspect.signature(cls).parameters.items()
    }


def test_signature_of_lion_and_ranger():
    empty = inspect.Parameter.empty
    lion = signature_of(thalweg.Lion)
    assert list(lion)[:4] == ["params", "lr", "betas", "weight_decay"]
    assert [lion[n] for n in list(lion)[:4]] == [
        (empty, False),
        (1e-4, False),
        ((0.9, 0.99), False),
        (0.0, False),
    ]
    ranger = signature_of(thalweg.Ranger)
    expected = {
        "params": empty,
        "lr": 1e-3,
        "alpha": 0.5,
        "k": 6,
        "n_sma_threshold": 5,
        "betas": (0.95, 0.999),
        "eps": 1e-5,
        "weight_decay": 0.0,
    }
    assert list(ranger)[: len(expected)] == list(expected)
    assert {n: ranger[n] for n in expected} == {n: (d, False) for n, d in expected.items()}
    for signature in (lion, ranger):
        keywords = ("foreach", "maximize", "capturable", "differentiable", "fused", "options")
        assert all(signature[k][1] for k in keywords)


# --- errors ---------------------------------------------------------------------------------------


def param():
    return torch.nn.Parameter(torch.ones(2))


def shared_across_groups():
    p = param()
    return [{"params": [p]}, {"params": [p]}]


ADAM_LIKE = {
    "eps": {"eps": -1e-8},
    "beta1 one": {"betas": (1.0, 0.999)},
    "beta1 negative": {"betas": (-0.1, 0.999)},
    "beta2": {"betas": (0.9, 1.2)},
    "weight decay": {"weight_decay": -0.1},
    "lr nan": {"lr": float("nan")},
    "eps nan": {"eps": float("nan")},
    "beta nan": {"betas": (0.9, float("nan"))},
}
FOREACH_TENSORS = {
    "tensor lr, foreach": {"lr": torch.tensor(0.1), "foreach": True},
    "one tensor beta": {"betas": (torch.tensor(0.9), 0.999)},
    "tensor betas, foreach": {
        "betas": (torch.tensor(0.9), torch.tensor(0.999)),
        "foreach": True,
    },
}
FUSED = {
    "fused and foreach": {"fused": True, "foreach": True},
    "fused and differentiable": {"fused": True, "differentiable": True},
}
EVERY = {"lr": {"lr": -0.1}, "tensor lr of two": {"lr": torch.tensor([0.1, 0.2])}}
BAD = {
    "SGD": {
        **EVERY,
        **FUSED,
        "momentum": {"momentum": -0.5},
        "weight decay": {"weight_decay": -0.1},
        "nesterov alone": {"nesterov": True},
        "nesterov dampened": {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    },
    "Adam": {**EVERY, **ADAM_LIKE, **FOREACH_TENSORS, **FUSED},
    "AdamW": {**EVERY, **ADAM_LIKE, **FOREACH_TENSORS, **FUSED},
    "RAdam": {**EVERY, **ADAM_LIKE},
    "Adagrad": {
        **EVERY,
        **FUSED,
        "lr decay": {"lr_decay": -0.5},
        "weight decay": {"weight_decay": -0.1},
        "start": {"initial_accumulator_value": -0.1},
        "eps": {"eps": -1e-8},
    },
    "Adadelta": {
        **EVERY,
        "rho": {"rho": 1.1},
        "rho negative": {"rho": -0.1},
        "eps": {"eps": -1e-8},
        "weight decay": {"weight_decay": -0.1},
    },
    "RMSprop": {
        **EVERY,
        "eps": {"eps": -1e-8},
        "momentum": {"momentum": -1.0},
        "weight decay": {"weight_decay": -0.1},
        "alpha": {"alpha": -0.1},
    },
    "Adamax": {**EVERY, **ADAM_LIKE},
    "NAdam": {**EVERY, **ADAM_LIKE, "momentum decay": {"momentum_decay": -0.2}},
    "ASGD": {**EVERY, "weight decay": {"weight_decay": -0.5}},
    "Rprop": {
        **EVERY,
        "etas": {"etas": (1.0, 0.5)},
        "eta minus": {"etas": (0.0, 1.2)},
        "eta plus": {"etas": (0.5, 1.0)},
        "eta nan": {"etas": (float("nan"), 1.2)},
    },
    "Adafactor": {
        **EVERY,
        "lr nan": {"lr": float("nan")},
        "beta2_decay": {"beta2_decay": 0.1},
        "eps1": {"eps": (-1e-30, 1e-3)},
        "eps2": {"eps": (None, -1e-3)},
        "d": {"d": 0.5},
        "weight decay": {"weight_decay": -0.1},
    },
}
BAD_PARAMS = {
    "a tensor": param,
    "nothing": list,
    "a number": lambda: [3.0],
    "non-leaf": lambda: [param() * 2],
    "shared across groups": shared_across_groups,
    "a set in a group": lambda: [{"params": {param()}}],
    "no params in the group": lambda: [{"lr": 0.1}],
    "some names missing": lambda: [("a", param()), param()],
    "a group with names and one without": lambda: [
        {"params": [("a", param())]},
        {"params": [param()]},
    ],
    "none": lambda: None,
}


def complaint(build):
    """Return the type and the text of what a call raises, warnings aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            build()
        except Exception as error:
            return type(error), str(error)
    return None, ""


def assert_same_complaint(mine, reference):
    """Mine is of torch's exception type, and its text begins with torch's."""
    my_type, my_text = complaint(mine)
    torch_type, torch_text = complaint(reference)
    assert torch_type is not None, "torch raises nothing here: the case is wrong"
    assert my_type is not None, f"nothing raised; torch says: {torch_text}"
    assert issubclass(my_type, torch_type), (my_type, torch_type, my_text)
    assert my_text.startswith(torch_text.rstrip(".")), f"{my_text!r} begins not as {torch_text!r}"


@pytest.mark.parametrize(
    ("cls", "case"), [(c, case) for c in CLASSES for case in BAD[c]], ids=lambda x: x
)
def test_bad_numbers_raise_torchs_sentence(cls, case):
    kwargs = BAD[cls][case]
    assert_same_complaint(
        lambda: getattr(thalweg, cls)([param()], **kwargs),
        lambda: getattr(torch.optim, cls)([param()], **kwargs),
    )


@pytest.mark.parametrize("case", BAD_PARAMS)
@pytest.mark.parametrize("cls", CLASSES)
def test_bad_parameters_raise_torchs_sentence(cls, case):
    make = BAD_PARAMS[case]
    assert_same_complaint(
        lambda: getattr(thalweg, cls)(make()), lambda: getattr(torch.optim, cls)(make())
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_a_duplicate_within_a_group_warns_as_torch_does(cls):
    texts = []
    for module in (thalweg, torch.optim):
        p = param()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            getattr(module, cls)([p, p])
        texts.append([str(w.message) for w in caught])
    mine, reference = texts
    assert len(mine) == len(reference) == 1
    assert mine[0].startswith(reference[0].split(";")[0])


@pytest.mark.parametrize("cls", CLASSES)
def test_bad_state_dicts_raise_torchs_sentence(cls):
    def load(module, damage):
        p = param()
        optimizer = getattr(module, cls)([p])
        saved = optimizer.state_dict()
        damage(saved)
        optimizer.load_state_dict(saved)

    for damage in (
        lambda d: d["param_groups"].append(dict(d["param_groups"][0])),
        lambda d: d["param_groups"][0]["params"].append(1),
    ):
        assert_same_complaint(
            lambda damage=damage: load(thalweg, damage),
            lambda damage=damage: load(torch.optim, damage),
        )


@pytest.mark.parametrize("cls", [c for c in CLASSES if c not in ("SGD", "Adagrad")])
def test_sparse_gradients_are_refused_with_torchs_sentence(cls):
    def step(module, **kwargs):
        p = torch.nn.Parameter(torch.zeros(3, 2))
        p.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2))
        getattr(module, cls)([p], **kwargs).step()

    for kwargs in BACKENDS.values():
        assert_same_complaint(
            lambda kwargs=kwargs: step(thalweg, **kwargs), lambda: step(torch.optim, foreach=False)
        )


def test_adafactor_refuses_complex_parameters_with_torchs_sentence():
    def step(module):
        for shape in ((3, 2), (3,)):
            p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.complex64))
            p.grad = torch.ones_like(p)
            module.Adafactor([p]).step()

    assert_same_complaint(lambda: step(thalweg), lambda: step(torch.optim))


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients_agree(name, backend):
    paths = []
    for module, kwargs in ((thalweg, BACKENDS[backend]), (torch.optim, {})):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(5, 2, dtype=torch.float64))
        optimizer = getattr(module, name)([p], lr=0.1, **kwargs)
        for rows in ([1, 3], [3, 3], [0, 4]):  # [3, 3]: an uncoalesced gradient
            p.grad = torch.sparse_coo_tensor([rows], torch.randn(2, 2, dtype=torch.float64), (5, 2))
            optimizer.step()
        paths.append(p.detach())
    torch.testing.assert_close(*paths, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "mine",
    [
        lambda: None,
        lambda: exec("raise TypeError('Invalid learning rate: -1')"),
        lambda: exec("raise ValueError('learning rate -1')"),
    ],
    ids=["silent", "type", "text"],
)
def test_complaint_comparer_can_fail(mine):
    def reference():
        raise ValueError("Invalid learning rate: -1")

    with pytest.raises(AssertionError):
        assert_same_complaint(mine, reference)
    with pytest.raises(AssertionError, match="torch raises nothing"):
        assert_same_complaint(reference, lambda: None)
