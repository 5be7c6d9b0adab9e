"""What cannot work is refused in one clear sentence, and a step that raises has changed nothing."""

import warnings
from contextlib import contextmanager

import pytest
import torch

import thalweg
from subjects import BACKENDS, SUBJECTS, make, run, run_new
from thalweg import Hyper, Scalar, Slot, Switch, rule
from thalweg import options as opt
from thalweg.engine.ops import lerp, sqrt, where
from thalweg.errors import ThalwegError
from trajectories import assert_same_bits, snapshot

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def param(*shape):
    return torch.nn.Parameter(torch.ones(shape or (3,)))


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refused(kind, build, *named):
    """Check that a call raises ``kind``, of our family, in a text that names all of ``named``."""
    with pytest.raises(kind) as caught, quiet():
        build()
    assert isinstance(caught.value, ThalwegError), type(caught.value)
    text = str(caught.value)
    for word in named:
        assert str(word).lower() in text.lower(), f"{word!r} is not in: {text}"
    assert "\n\n" not in text
    return text


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (ValueError("lr"), "ValueError"),
        (thalweg.errors.ArgumentError("nothing to see"), "is not in"),
    ],
    ids=["family", "text"],
)
def test_refused_can_fail(error, match):
    def build():
        raise error

    with pytest.raises(AssertionError, match=match):
        refused(ValueError, build, "lr")


# --- numbers --------------------------------------------------------------------------------------

BAD_NUMBERS = {
    "lion lr": (lambda: thalweg.Lion([param()], lr=-1.0), "Invalid learning rate: -1.0"),
    "lion lr nan": (
        lambda: thalweg.Lion([param()], lr=float("nan")),
        "Invalid learning rate: nan",
    ),
    "sgd lr nan": (lambda: thalweg.SGD([param()], lr=float("nan")), "Invalid learning rate: nan"),
    "sgd lr inf": (lambda: thalweg.SGD([param()], lr=-float("inf")), "Invalid learning rate: -inf"),
    "lion beta1": (
        lambda: thalweg.Lion([param()], betas=(1.5, 0.9)),
        "Invalid beta parameter at index 0: 1.5",
    ),
    "lion beta2": (
        lambda: thalweg.Lion([param()], betas=(0.9, -0.1)),
        "Invalid beta parameter at index 1: -0.1",
    ),
    "lion decay": (
        lambda: thalweg.Lion([param()], weight_decay=-0.1),
        "Invalid weight_decay value: -0.1",
    ),
    "ranger lr": (lambda: thalweg.Ranger([param()], lr=-1), "Invalid learning rate: -1"),
    "ranger eps": (lambda: thalweg.Ranger([param()], eps=-1.0), "Invalid epsilon value: -1.0"),
    "ranger beta": (
        lambda: thalweg.Ranger([param()], betas=(0.95, 1.0)),
        "Invalid beta parameter at index 1: 1.0",
    ),
    "ranger k": (lambda: thalweg.Ranger([param()], k=0), "k"),
    "ranger k half": (lambda: thalweg.Ranger([param()], k=2.5), "k"),
    "ranger alpha": (lambda: thalweg.Ranger([param()], alpha=1.5), "alpha"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_bad_numbers(case):
    build, sentence = BAD_NUMBERS[case]
    text = refused(ValueError, build, sentence)
    if sentence.startswith("Invalid"):
        assert text.startswith(sentence)


def test_the_sentence_says_what_who_where_and_what_is_usual():
    groups = [{"params": [("body", param())]}, {"params": [("head.weight", param())]}]
    groups[1]["betas"] = (0.9, 1.2)
    text = refused(ValueError, lambda: thalweg.AdamW(groups))
    assert text.startswith("Invalid beta parameter at index 1: 1.2")
    for word in ("AdamW", "[0, 1)", "group 1", "head.weight", "0.999"):
        assert word in text, text


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lr", -1.0, "Invalid learning rate: -1.0"),
        ("eps", -1.0, "Invalid epsilon value: -1.0"),
        ("betas", (0.9, 1.0), "Invalid beta parameter at index 1: 1.0"),
        ("weight_decay", -1.0, "Invalid weight_decay value: -1.0"),
    ],
)
def test_bad_numbers_of_a_group_are_seen_too(key, value, sentence):
    """torch checks the constructor's arguments alone."""
    bad = {"params": [param()], key: value}
    assert refused(ValueError, lambda: thalweg.AdamW([bad])).startswith(sentence)
    optimizer = thalweg.AdamW([param()])
    before = len(optimizer.param_groups)
    assert refused(ValueError, lambda: optimizer.add_param_group(bad)).startswith(sentence)
    assert len(optimizer.param_groups) == before


BAD_OPTIONS = {
    "clip value zero": (lambda: opt.ClipValue(0.0), ("max_value", "0")),
    "clip value negative": (lambda: opt.ClipValue(-1.0), ("max_value", "-1.0")),
    "clip norm": (lambda: opt.ClipNorm(-2.0), ("max_norm", "-2.0")),
    "lookahead k": (lambda: opt.Lookahead(k=0), ("k", "0")),
    "lookahead k half": (lambda: opt.Lookahead(k=2.5), ("k", "2.5")),
    "lookahead alpha": (lambda: opt.Lookahead(alpha=1.5), ("alpha", "1.5")),
    "average": (lambda: opt.Average(1.5), ("decay", "1.5")),
    "average nan": (lambda: opt.Average(float("nan")), ("decay", "nan")),
    "decay style": (lambda: opt.Decay("decopled"), ("style", "decopled", "decoupled")),
    "cautious l2": (lambda: opt.Decay("l2", cautious=True), ("l2", "cautious")),
    "state type": (lambda: opt.StateDtype(torch.int32), ("int32", "bfloat16")),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_numbers_of_options(case):
    build, words = BAD_OPTIONS[case]
    refused(ValueError, lambda: thalweg.AdamW([param()], options=[build()]), *words)


# --- arguments ------------------------------------------------------------------------------------


@rule(slots=(Slot("buf"),), hypers=(Hyper("momentum", 0.9, low=0.0, high=1.0),))
def heavy_ball(g, buf, *, momentum):
    """A rule for these tests."""
    buf = momentum * buf + g
    return buf, buf


def test_unknown_arguments_get_a_suggestion():
    refused(
        TypeError,
        lambda: thalweg.Optimizer([param()], rule=heavy_ball, momentun=0.8),
        "momentun",
        "did you mean",
        "momentum",
    )
    for cls in ("SGD", "Adam", "AdamW", "RAdam", "Lion", "Ranger"):
        with pytest.raises(TypeError, match="weight_decy"):
            getattr(thalweg, cls)([param()], weight_decy=0.1)


def test_unknown_names_get_a_suggestion():
    p = [param()]
    refused(ValueError, lambda: thalweg.create_optimizer(p, "lyon", lr=0.1), "lyon", "lion")
    refused(
        ValueError,
        lambda: thalweg.create_optimizer(p, "lion + lookahed", lr=0.1),
        "lookahed",
        "lookahead",
    )
    for text in (
        "lion(betas=(0.9,)",
        "lion + + cautious",
        "lion; import os",
        "lion(lr=open('x'))",
        "",
    ):
        refused(ValueError, lambda text=text: thalweg.create_optimizer(p, text, lr=0.1))


def test_options_must_be_a_list_of_options():
    for bad in (opt.Cautious(), "cautious", [opt.Cautious], [3], [None]):
        refused(TypeError, lambda bad=bad: thalweg.AdamW([param()], options=bad), "option")


def test_options_of_one_optimizer_must_be_equal_in_all_groups():
    """One norm, one decision to skip: such options cannot hold for half of the parameters."""
    for option in (opt.ClipNorm(1.0), opt.SkipNonFinite()):
        groups = [{"params": [param()], "options": [option]}, {"params": [param()]}]
        refused(ValueError, lambda groups=groups: thalweg.AdamW(groups), "group")


@pytest.mark.parametrize("name", SUBJECTS)
def test_empty_duplicate_and_non_leaf_parameters(name):
    """These checks are torch's own, and so are their sentences."""
    p = param()
    for kind, params, words in (
        (ValueError, [], "optimizer got an empty parameter list"),
        (ValueError, [{"params": [p]}, {"params": [p]}], "more than one parameter group"),
        (ValueError, [p * 2], "can't optimize a non-leaf Tensor"),
        (TypeError, [3.0], "can only optimize Tensors"),
        (TypeError, p, "iterable"),
    ):
        with pytest.raises(kind, match=words):
            make(name, params)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        make(name, [p, p])


def test_a_parameter_in_two_groups_is_named():
    p, q = param(), param()
    for first, second, words in (
        ([("w", p)], [("q", q), ("w", p)], "'w' is in group 0 and in group 1"),
        ([p], [q, p], "parameter 1 of group 1 is in group 0 and in group 1"),
    ):
        groups = [{"params": first}, {"params": second}]
        said = f"^some parameters appear in more than one parameter group: {words}"
        with pytest.raises(ValueError, match=said):
            thalweg.SGD(groups, lr=0.1)


@every_backend
def test_a_duplicate_within_a_group_steps_once(backend):
    """torch warns, and then moves it twice on some paths and once on others; here it moves once on all."""
    p = param()
    before = p.detach().clone()
    with quiet():
        optimizer = thalweg.SGD([p, p], lr=0.1, **BACKENDS[backend])
    for steps in (1, 2):
        p.grad = torch.ones(3)
        optimizer.step()
        torch.testing.assert_close(p.detach(), before - 0.1 * steps)


def test_integer_parameters_are_refused_when_they_have_a_gradient():
    """As a frozen buffer in a list it may stand there; torch lets it, too."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    params = [param(), p]
    optimizer = thalweg.AdamW(params)
    params[0].grad = torch.ones(3)
    optimizer.step()
    assert (p == 1).all()


# --- rules ----------------------------------------------------------------------------------------


def declare(function, **declaration):
    """Declare a rule and take a step with it: whichever refuses first."""
    declared = rule(name=f"test_{function.__name__}", **declaration)(function)
    p = param(2, 2)
    p.grad = torch.ones(2, 2)
    optimizer = thalweg.Optimizer([p], rule=declared, lr=0.1)
    try:
        optimizer.step()
    finally:
        assert (p == 1).all(), "a rule that was refused moved the parameter"


def too_few(g, buf):
    return g


def too_many(g):
    return g, g


def other_slot(g, velocity):
    return g, velocity


def undeclared(g, *, momentum):
    return g * momentum


def not_asked_for(g):
    return g


def foreign(g, buf):
    return torch.relu(g), buf


def method(g):
    return g.abs()


def branches(g):
    return g if g > 0 else -g


def loops(g):
    while g > 1:
        g = g * 0.5
    return g


def in_place(g, buf):
    buf *= 2
    buf.add_(g)
    return buf, buf


def returns_text(g):
    return "down"


def float_of(g):
    return g * float(g)


def star(g, *slots):
    return g


def outside(g):
    return g + torch.ones(2, 2)


BUF = {"slots": (Slot("buf"),)}
BAD_RULES = {
    "too few returned": (too_few, BUF, ("too_few",)),
    "too many returned": (too_many, {}, ("too_many",)),
    "slot of another name": (other_slot, BUF, ("buf", "velocity")),
    "undeclared number": (undeclared, {}, ("momentum",)),
    "declared, not asked for": (
        not_asked_for,
        {"hypers": (Hyper("momentum", 0.9),)},
        ("momentum",),
    ),
    "slot that the function lacks": (not_asked_for, BUF, ("buf",)),
    "a function of torch": (foreign, BUF, ("foreign",)),
    "a method of tensors": (method, {}, ("abs",)),
    "if on a value": (branches, {}, ("where",)),
    "while on a value": (loops, {}, ("where",)),
    "in place": (in_place, BUF, ("add_",)),
    "a text": (returns_text, {}, ("returns_text",)),
    "float of a value": (float_of, {}, ("number",)),
    "star arguments": (star, {}, ("slots",)),
    "a tensor from outside": (outside, {}, ("outside",)),
    "a name twice": (
        too_few,
        {"slots": (Slot("buf"),), "hypers": (Hyper("buf", 1.0),)},
        ("buf", "twice"),
    ),
    "the engine's name": (undeclared, {"hypers": (Hyper("lr", 0.1),)}, ("lr",)),
    "no such switch": (too_few, {"slots": (Slot("buf", when="heavy"),)}, ("heavy",)),
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_bad_rules(case):
    function, declaration, words = BAD_RULES[case]
    refused(TypeError, lambda: declare(function, **declaration), *words)


def test_a_good_rule_is_not_refused():
    """The same way as the bad ones, so that they fail for the reason given."""

    def good(g, avg, *, beta, t, sharp, first):
        avg = lerp(avg, g, 1 - beta)
        avg = where(first, g, avg)
        u = avg / sqrt(avg * avg + 1) if sharp else avg
        return u / (1 - beta**t), avg

    with pytest.raises(AssertionError, match="moved the parameter"):
        declare(
            good,
            slots=(Slot("avg"),),
            scalars=(Scalar("step"),),
            hypers=(Hyper("beta", 0.9, low=0.0, high=1.0),),
            switches=(Switch("sharp", True),),
        )


def test_a_rule_is_needed():
    for bad in (None, "adamw?", 3, lambda g: g):
        refused((TypeError, ValueError), lambda bad=bad: thalweg.Optimizer([param()], rule=bad))


# --- checkpoints ----------------------------------------------------------------------------------


def steady(optimizer, load, kind, *words):
    """Check that a load is refused and that it changed nothing."""
    before = snapshot(optimizer)
    refused(kind, load, *words)
    assert_same_bits(snapshot(optimizer), before)


def test_a_checkpoint_with_other_options():
    with_it, _ = run_new("laden adamw", 3)
    without, params = run_new("adamw", 3)
    saved, plain = with_it.state_dict(), without.state_dict()
    words = ("lookahead", "average", "cautious", "clip_norm")
    steady(without, lambda: without.load_state_dict(saved), ValueError, *words)
    steady(with_it, lambda: with_it.load_state_dict(plain), ValueError, *words)
    run(without, params, 3, 2)

    keys = set(without.state[params[0]])
    without.load_state_dict(saved, strict=False)  # keeps the constructor's
    assert set(without.state[params[0]]) == keys
    assert set(without.param_groups[0]["options"]) == set()
    run(without, params, 3, 2)


def test_a_checkpoint_of_another_rule():
    lion, _ = run_new("lion", 2)
    adamw, params = run_new("adamw", 2)
    steady(adamw, lambda: adamw.load_state_dict(lion.state_dict()), ValueError, "lion")
    bare = lion.state_dict()  # as another library's Lion saves it, without the rule's name
    for group in bare["param_groups"]:
        del group["rule"], group["options"]
    steady(adamw, lambda: adamw.load_state_dict(bare), ValueError, "exp_avg_sq")
    run(adamw, params, 2, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exp_avg", torch.zeros(5)),
        ("exp_avg", torch.zeros(6, 4)),
        ("exp_avg", None),
        ("exp_avg_sq", "gone"),
        ("step", torch.zeros(2)),
        ("step", "three"),
    ],
    ids=["shape", "size", "none", "text", "step of two", "step text"],
)
def test_a_checkpoint_with_a_bad_entry(key, value):
    """Before the load, or before the next step writes: never a kernel over a wrong buffer."""
    optimizer, params = run_new("adamw", 2)
    saved = optimizer.state_dict()
    saved["state"] = {i: dict(s) for i, s in saved["state"].items()}
    saved["state"][1][key] = value
    before = [p.detach().clone() for p in params]

    def load_and_step():
        optimizer.load_state_dict(saved)
        run(optimizer, params, 2, 1)

    refused((ValueError, TypeError, RuntimeError), load_and_step, key)
    assert_same_bits(params, before)
