"""What cannot work is refused in one clear sentence, and a step that raises has changed nothing."""

import os
import subprocess
import sys
import textwrap
import warnings
from contextlib import contextmanager

import pytest
import torch

import thalweg
from subjects import BACKENDS, SUBJECTS, draw, make, parameters, run, run_new
from thalweg import Hyper, Scalar, Slot, Switch, rule
from thalweg import options as opt
from thalweg.engine.ops import lerp, sqrt, where
from thalweg.errors import CompilerError, ThalwegError
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


@every_backend
def test_a_duplicate_within_a_group_steps_once_or_as_torch(backend):
    """torch warns, then updates it once for each time it stands there; so must every backend."""
    results = []
    for cls, kwargs in ((thalweg.SGD, BACKENDS[backend]), (torch.optim.SGD, {"foreach": False})):
        p = param()
        with quiet():
            optimizer = cls([p, p], lr=0.1, **kwargs)
        p.grad = torch.ones(3)
        optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)


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


def returns_number(g):
    return 1.0


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
    "a number for a tensor": (returns_number, {}, ("returns_number",)),
    "a text": (returns_text, {}, ("returns_text",)),
    "float of a value": (float_of, {}, ("float_of",)),
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
    steady(adamw, lambda: adamw.load_state_dict(lion.state_dict()), ValueError, "exp_avg_sq")
    run(adamw, params, 2, 1)


def test_a_checkpoint_of_another_shape_or_kind():
    optimizer, params = run_new("adamw", 2)

    def damaged(key, value):
        saved = optimizer.state_dict()
        saved["state"] = {i: dict(s) for i, s in saved["state"].items()}
        saved["state"][1][key] = value
        return saved

    for key, value in (
        ("exp_avg", torch.zeros(5)),
        ("exp_avg", torch.zeros(6, 4)),
        ("exp_avg_sq", "gone"),
        ("exp_avg", None),
        ("step", torch.zeros(2)),
        ("step", "three"),
    ):
        saved = damaged(key, value)
        steady(
            optimizer,
            lambda saved=saved: optimizer.load_state_dict(saved),
            (ValueError, TypeError),
            key,
        )
    run(optimizer, params, 2, 1)


# --- a step that raises has changed nothing -------------------------------------------------------


def spoil_sparse(optimizer, params):
    grad = params[-2].grad
    params[-2].grad = torch.sparse_coo_tensor([[0]], grad[:1].clone(), grad.shape)

    def mend():
        params[-2].grad = grad

    return mend


def spoil_shape(optimizer, params):
    """The parameter was resized behind the gradient's back."""
    whole = params[1].data
    params[1].data = whole[:2]

    def mend():
        params[1].data = whole

    return mend


def spoil_group(key, value):
    def spoil(optimizer, params):
        group = optimizer.param_groups[-1]
        kept = group[key]
        group[key] = value

        def mend():
            group[key] = kept

        return mend

    return spoil


def spoil_group_without(key):
    def spoil(optimizer, params):
        group = optimizer.param_groups[-1]
        kept = group.pop(key)

        def mend():
            group[key] = kept

        return mend

    return spoil


def spoil_slot(optimizer, params):
    """A slot of another shape, put there by hand."""
    state = optimizer.state[params[1]]
    kept = dict(state)
    state["exp_avg"] = torch.zeros(3)

    def mend():
        state.clear()
        state.update(kept)

    return mend


SPOILS = {
    "sparse gradient": spoil_sparse,
    "parameter resized": spoil_shape,
    "lr text": spoil_group("lr", "fast"),
    "lr none": spoil_group("lr", None),
    "lr of two": spoil_group("lr", torch.tensor([0.1, 0.2])),
    "lr gone": spoil_group_without("lr"),
    "weight decay text": spoil_group("weight_decay", "some"),
    "one beta": spoil_group("betas", (0.9,)),
    "betas none": spoil_group("betas", None),
}


def spoiled_run(name, spoil, at, backend):
    """Run six steps of two groups; before step ``at`` one raises and is mended."""
    shapes = ((7,), (6, 5), (2, 3, 2, 2), (4, 3), (2,))
    params = parameters(shapes=shapes)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03125}]
    optimizer = make(name, groups, **BACKENDS[backend])
    for t in range(6):
        if t == at:
            generator = torch.Generator().manual_seed(t)
            for p in params:
                p.grad = draw(p.shape, p.dtype, generator)
            mend = spoil(optimizer, params)
            before = snapshot(optimizer)
            keys = set(optimizer.state)
            with pytest.raises((RuntimeError, TypeError, ValueError, KeyError)) as caught:
                optimizer.step()
            assert set(optimizer.state) == keys, "state was published before the step could fail"
            assert_same_bits(snapshot(optimizer)["state"], before["state"])
            assert_same_bits(snapshot(optimizer)["parameters"], before["parameters"])
            mend()
            assert isinstance(caught.value, ThalwegError), repr(caught.value)
        run(optimizer, params, t, 1)
    return params, snapshot(optimizer)


def undisturbed_run(name, backend):
    shapes = ((7,), (6, 5), (2, 3, 2, 2), (4, 3), (2,))
    params = parameters(shapes=shapes)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03125}]
    optimizer = make(name, groups, **BACKENDS[backend])
    run(optimizer, params, 0, 6)
    return params, snapshot(optimizer)


@every_backend
@pytest.mark.parametrize("at", [0, 3], ids=["first step", "fourth step"])
@pytest.mark.parametrize("case", SPOILS)
@pytest.mark.parametrize("name", ["adamw", "laden adamw", "ranger"])
def test_a_step_that_raises_leaves_all_as_it_was(name, case, at, backend):
    disturbed = spoiled_run(name, SPOILS[case], at, backend)
    assert_same_bits(disturbed, undisturbed_run(name, backend))


@every_backend
@pytest.mark.parametrize("name", ["adamw", "laden adamw", "lion"])
def test_a_wrong_slot_raises_before_anything_moves(name, backend):
    disturbed = spoiled_run(name, spoil_slot, 3, backend)
    assert_same_bits(disturbed, undisturbed_run(name, backend))


def test_a_bad_parameter_added_to_a_group_raises_before_anything_moves():
    """Meta tensors hold no numbers: the kernel that was asked for cannot run on them."""
    params = parameters()
    optimizer = make("adamw", params, fused=True)
    run(optimizer, params, 0, 2)
    ghost = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimizer.param_groups[0]["params"].append(ghost)
    ghost.grad = torch.empty(3, device="meta")
    before = snapshot(optimizer)["parameters"][:-1]
    with pytest.raises(RuntimeError, match="meta"):
        run(optimizer, params, 2, 1)
    assert_same_bits([p.detach() for p in params], before)
    optimizer.param_groups[0]["params"].pop()
    run(optimizer, params, 2, 2)
    _, whole = run_new("adamw", 4)
    assert_same_bits(params, whole)


def test_a_closure_that_raises_changes_nothing():
    optimizer, _ = run_new("laden adamw", 2)
    before = snapshot(optimizer)

    def closure():
        raise ZeroDivisionError("loss")

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert_same_bits(snapshot(optimizer), before)


# --- the machine ----------------------------------------------------------------------------------


def script(text, **environment):
    """Run a script in a process of its own; what it printed."""
    paths = [*sys.path, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


WITHOUT_COMPILER = """
    import torch, thalweg
    p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
    o = thalweg.AdamW([p], lr=0.1)
    for _ in range(3): o.step()
    reference = torch.nn.Parameter(torch.ones(3)); reference.grad = torch.ones(3)
    t = torch.optim.AdamW([reference], lr=0.1)
    for _ in range(3): t.step()
    assert torch.allclose(p, reference)
    print("EXPLAIN", o.explain())
    q = torch.nn.Parameter(torch.ones(3)); q.grad = torch.ones(3)
    try:
        thalweg.AdamW([q], fused=True).step()
    except thalweg.errors.ThalwegError as error:
        assert isinstance(error, RuntimeError), type(error)
        print("RAISED", error)
    assert torch.equal(q, torch.ones(3))
"""


def test_without_a_compiler_lists_are_used_and_said_once(tmp_path):
    folder = str(tmp_path / "cache")
    out = script(WITHOUT_COMPILER, THALWEG_CC="/nonexistent/cc", THALWEG_CACHE_DIR=folder)
    assert "foreach" in out.split("EXPLAIN")[1]
    assert "/nonexistent/cc" in out.split("EXPLAIN")[1].split("RAISED")[0]
    assert "/nonexistent/cc" in out.split("RAISED")[1]
    assert out.count("Warning:") == 1


def test_a_compiler_that_fails(tmp_path):
    """It answers as gcc does, and then cannot compile."""
    fake = tmp_path / "cc"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *-###*) echo "gcc version 99.9" >&2; exit 0;; esac\n'
        'echo "disk on fire" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    folder = str(tmp_path / "cache")
    out = script(WITHOUT_COMPILER, THALWEG_CC=str(fake), THALWEG_CACHE_DIR=folder)
    assert "foreach" in out.split("EXPLAIN")[1].split("RAISED")[0]
    assert "disk on fire" in out.split("RAISED")[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    out = script(STEP, THALWEG_CACHE_DIR=str(tmp_path / "closed" / "cache"))
    assert "done" in out


STEP = """
    import torch, thalweg
    p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
    o = thalweg.AdamW([p], lr=0.1)
    o.step()
    assert torch.allclose(p, torch.full((3,), 0.899), atol=1e-6)
    print(o.explain(), "done")
"""


@pytest.mark.parametrize("kind", ["link", "file", "writable by others", "full of rubbish"])
def test_a_broken_or_hostile_cache_folder_is_not_used(tmp_path, kind):
    """The step works all the same, and nothing that lay there is loaded or removed."""
    folder, target = tmp_path / "cache", tmp_path / "elsewhere"
    target.mkdir()
    if kind == "link":
        folder.symlink_to(target)
    elif kind == "file":
        folder.write_text("not a folder")
    elif kind == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.mkdir(mode=0o700)
        (folder / "rubbish.so").write_bytes(b"\x7fELF and nothing")
    assert "done" in script(STEP, THALWEG_CACHE_DIR=str(folder))
    if kind == "full of rubbish":
        for path in folder.glob("*.so"):  # every object truncated: each must be built again
            path.write_bytes(path.read_bytes()[:100])
        assert "done" in script(STEP, THALWEG_CACHE_DIR=str(folder))
    elif kind != "file":
        assert list(target.iterdir()) == []
        assert list(folder.iterdir()) == []


OUT_OF_MEMORY = """
    import resource, torch, thalweg
    torch.set_num_threads(1)

    def run(limit_at=None):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(4_000_000)) for _ in range(3)]
        grads = [torch.randn(4_000_000) for _ in params]
        o = thalweg.AdamW(params, lr=0.1, options=[thalweg.options.Lookahead(k=2)])
        for p, g in zip(params, grads): p.grad = g
        if limit_at is not None:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + limit_at, resource.RLIM_INFINITY))
            try:
                o.step()
                print("ENOUGH", limit_at)
            except (RuntimeError, MemoryError) as error:
                print("FAILED", limit_at, str(error)[:60])
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                assert len(o.state) == 0, "state of a failed step"
                torch.manual_seed(0)
                for p in params: assert torch.equal(p, torch.randn(4_000_000)), "moved"
                o.step()
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        else:
            o.step()
        for _ in range(2): o.step()
        return params

    whole = run()
    for limit in (20_000_000, 60_000_000, 100_000_000):
        for p, q in zip(whole, run(limit)): assert torch.equal(p, q), limit
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_failed_allocation_leaves_nothing_behind():
    """State of 48 MB a slot, and an address space that ends before, within and behind it."""
    out = script(OUT_OF_MEMORY)
    assert "FAILED" in out


def test_compiler_errors_are_of_the_family():
    assert issubclass(CompilerError, ThalwegError)
    assert issubclass(CompilerError, RuntimeError)
