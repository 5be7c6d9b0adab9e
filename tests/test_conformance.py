"""The conformance kit: each check can say no, a sound optimizer passes all, and so do ours."""

import inspect
import json

import pytest
import torch
from benchmarks import conformance

import thalweg
from broken_optimizers import (
    ALSO_BROKEN,
    BROKEN,
    STANDS_STILL,
    CrashesInForks,
    HasNoBackends,
    NeverMoves,
    NeverSetUp,
    Sound,
    StepsThroughSuper,
)
from thalweg import ops
from thalweg.conformance import CAPABILITIES, CHECKS, calls, check_optimizer, machine
from thalweg.conformance.named import named_factory
from thalweg.errors import ArgumentError
from thalweg.importing import import_object


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(machine, "PATIENCE", 2.0)


def needed(name):
    return CHECKS[name].needs[:1]


WRONG = [(name, *BROKEN[name]) for name in CHECKS if name in BROKEN] + ALSO_BROKEN


@pytest.mark.parametrize(
    ("name", "broken", "said"), WRONG, ids=[f"{n}-{b.__name__}" for n, b, _ in WRONG]
)
def test_each_check_fails_on_what_is_broken(name, broken, said):
    report = check_optimizer(broken, checks=[name], capabilities=needed(name))
    (outcome,) = report.outcomes
    assert outcome.status == "fail"
    assert outcome.message.startswith("expected ")
    assert "; got " in outcome.message
    assert said in outcome.message
    assert not report.ok


def test_nothing_is_broken_that_no_check_finds():
    assert set(BROKEN) == set(CHECKS)


def test_a_sound_optimizer_passes_every_check():
    report = check_optimizer(Sound)
    assert report.ok, report
    assert [o.name for o in report.not_applicable] == ["sparse-gradient"]
    assert len(report.passed) == len(CHECKS) - 1


def test_what_never_moves_passes_nothing_that_takes_steps():
    report = check_optimizer(NeverMoves)
    assert {o.name for o in report.passed} == STANDS_STILL
    assert report.failed[0].message == (
        "expected steps that move a weight; got none moved in 3 with gradients that are not zero"
    )


def test_nothing_agrees_where_nothing_was_compared():
    report = check_optimizer(HasNoBackends, checks=["backends-agree"])
    (outcome,) = report.not_applicable
    assert outcome.message == "it refuses foreach=True and fused=True"


def test_a_factory_without_arguments_refuses_no_particular_one():
    names = ["misspelt-argument", "negative-lr"]
    report = check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1), checks=names)
    assert [o.name for o in report.not_applicable] == names
    assert "the factory takes no lr: " in report.not_applicable[0].message


def test_an_optimizer_that_was_never_set_up_is_told_so_once():
    sentence = (
        "the factory returned a NeverSetUp: it lacks defaults, state, _optimizer_step_pre_hooks, "
        "which torch.optim.Optimizer's constructor makes; NeverSetUp.__init__ must call "
        r"super\(\).__init__\(params, defaults\)"
    )
    for title in (None, "mine"):
        with pytest.raises(ArgumentError, match=sentence):
            check_optimizer(NeverSetUp, title=title)


def test_the_users_classes_are_left_as_they_were():
    StepsThroughSuper([torch.nn.Parameter(torch.zeros(1))])  # torch hooks its own step by itself
    before = [vars(cls).get("step") for cls in StepsThroughSuper.__mro__]
    check_optimizer(StepsThroughSuper, checks=["hooks-once"])
    assert [vars(cls).get("step") for cls in StepsThroughSuper.__mro__] == before


def test_a_crash_in_a_fork_is_told_from_a_hang():
    report = check_optimizer(CrashesInForks, checks=["fork"])
    assert "got an exception or a crash in it" in report.failed[0].message


OURS = {name: getattr(thalweg, name) for name in sorted(thalweg.optim.__all__)}
OURS |= conformance.compositions()


@pytest.mark.parametrize("name", OURS)
def test_ours_pass_all_that_applies(name):
    report = check_optimizer(OURS[name], capabilities=conformance._declared(name, OURS[name]))
    assert report.ok, report


BACKENDS = {
    "eager": ({"foreach": False, "fused": False}, {"temporaries"}),
    "foreach": ({"foreach": True}, {"temporaries", "number-lr"}),
}
"""Arguments, and what such a backend declares."""
KINDS = ("AdamW", "LAMB", "MuonAdamW", "Adafactor", "SGDScheduleFree", "Prodigy", "Ranger", "Rprop")
"""One of each kind of step: elements, sums, matrices, factors, averages, shared numbers, branches."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_ours_pass_on_the_other_backends(name, backend):
    arguments, declared = BACKENDS[backend]

    def factory(params, **overrides):
        return OURS[name](params, **{**arguments, **overrides})

    declared = declared | conformance._declared(name, OURS[name])
    report = check_optimizer(factory, capabilities=declared)
    assert report.ok, report


def parameters_of(name):
    return inspect.signature(getattr(thalweg, name)).parameters


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def large():
    w = torch.nn.Parameter(torch.ones(256, 512))
    w.grad = torch.full_like(w, 0.5)
    return w


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_step_hangs_in_a_fork(backend, two_threads, monkeypatch):
    """All in one child: what hangs is named by running the check `fork` of one class."""
    names = [n for n in thalweg.optim.__all__ if "foreach" in parameters_of(n)]
    optimizers = [OURS[n]([large()], **BACKENDS[backend][0]) for n in names]
    monkeypatch.setattr(machine, "PATIENCE", 30.0)
    optimizers[0].step()  # on threads that a child lacks
    done = machine._in_child(lambda: bytes([len([o.step() for o in optimizers])]))
    assert done == bytes([len(names)])
    assert len(names) > 30


def average(optimizer):
    with optimizer.averaged():
        pass


def evaluate(optimizer):
    optimizer.eval()
    optimizer.train()


def climb(optimizer):
    optimizer.first_step()
    optimizer.second_step()


@pytest.mark.parametrize(
    ("make", "walk"),
    [
        (lambda p: thalweg.AdamW(p, options=[thalweg.options.Average(0.5)]), average),
        (thalweg.AdamWScheduleFree, evaluate),
        (lambda p: thalweg.AdamW(p, options=[thalweg.options.Lookahead(k=2)]), average),
        (lambda p: thalweg.Lookahead(torch.optim.AdamW(p), k=2), average),
        (lambda p: thalweg.Lookahead(torch.optim.AdamW(p), k=1), lambda o: o.step()),
        (lambda p: thalweg.SAM(thalweg.AdamW(p)), climb),
        (lambda p: thalweg.SAM(torch.optim.SGD(p)), lambda o: o.step(lambda: 1.0)),
    ],
)
def test_nothing_beside_the_step_hangs_in_a_fork(make, walk, two_threads):
    w = large()
    optimizer = make([w])
    optimizer.step(
        *[lambda: 1.0] * isinstance(optimizer, thalweg.SAM)
    )  # on threads that a child lacks
    w.grad = torch.full_like(w, 0.5)  # SAM has cleared it
    done = machine._in_child(lambda: (walk(optimizer), b"done")[1])
    assert done == b"done"


def test_what_is_declared_is_not_asked_and_is_counted():
    report = check_optimizer(Sound, checks=["complex", "zero-dim"], capabilities=["real-only"])
    (excused,) = report.not_applicable
    assert excused.name == "complex"
    assert excused.message == "declared real-only: takes no complex parameters"
    assert report.declared == ("real-only",)
    assert report.summary() == "broken_optimizers.Sound: 1 of 1 pass, 1 not applicable"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_capability_changes_what_is_asked(capability):
    assert any(capability in (*c.needs, *c.unless) for c in CHECKS.values())


def test_what_is_not_declared_is_no_excuse():
    """SparseAdam refuses dense gradients: without a word of its author's, that is a failure."""
    report = check_optimizer(torch.optim.SparseAdam, checks=["resume"])
    assert "does not support dense gradients" in report.failed[0].message
    report = check_optimizer(
        torch.optim.SparseAdam, checks=["resume", "sparse-gradient"], capabilities=["sparse-only"]
    )
    assert report.ok, report


@pytest.mark.parametrize(
    ("cls", "capabilities"),
    [
        (torch.optim.LBFGS, ["closure-required", "one-group", "coupled"]),
        (torch.optim.Muon, ["matrix-only", "real-only"]),
    ],
)
def test_optimizers_of_other_kinds_can_be_walked(cls, capabilities):
    names = ["resume", "repeatable", "gradients-untouched", "closure-grad", "closure-loss"]
    report = check_optimizer(cls, checks=names, capabilities=capabilities)
    assert report.ok, report


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"checks": ["resumes"]}, "unknown check 'resumes'. Did you mean 'resume'?"),
        ({"capabilities": ["real"]}, "unknown capability 'real'. Did you mean 'real-only'?"),
    ],
)
def test_unknown_names_are_refused(keywords, sentence):
    with pytest.raises(ArgumentError, match=sentence.replace("?", r"\?")):
        check_optimizer(Sound, **keywords)


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (lambda: None, "the factory could not build an optimizer .*TypeError"),
        (lambda params: params, "the factory returned a list, which is no torch.optim.Optimizer"),
    ],
)
def test_a_factory_that_makes_no_optimizer_is_refused(factory, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        check_optimizer(factory)


def test_checks_leave_the_process_as_it_was():
    torch.manual_seed(5)
    threads, wanted = torch.get_num_threads(), torch.rand(1)
    torch.manual_seed(5)
    check_optimizer(Sound, checks=["thread-counts", "counts-in-bf16", "repeatable"])
    assert torch.equal(torch.rand(1), wanted)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


def test_every_scheduler_of_torch_is_walked():
    public = {
        name
        for name, cls in vars(torch.optim.lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.lr_scheduler.LRScheduler)
    }
    assert public - {"LRScheduler", "_LRScheduler"} <= set(calls.SCHEDULERS)


def test_the_report_reads():
    text = str(check_optimizer(Sound, checks=["resume", "sparse-gradient"], title="mine"))
    assert text.splitlines() == [
        "mine: 1 of 1 pass, 1 not applicable",
        "  not applicable sparse-gradient: not declared sparse or sparse-only: takes sparse gradients",
    ]
    for check in CHECKS.values():
        assert check.reason.endswith(".")


# --- by name, and from the command line -----------------------------------------------------------


def thalweg_check(*arguments):
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from thalweg import cli

    return CliRunner().invoke(cli.app(), ["check", *arguments], env={"COLUMNS": "200"})


def test_the_command_lists_what_failed_and_says_so_by_its_exit_code():
    names = ["--only", "misspelt-argument", "--only", "resume", "--only", "sparse-gradient"]
    found = thalweg_check("broken_optimizers.TakesAnything", *names)
    assert found.exit_code == 1
    assert "weight_decya; got an optimizer" in found.output
    assert "resume" not in found.output
    assert "not declared sparse or sparse-only" in found.output
    assert "broken_optimizers.TakesAnything: 1 of 2 pass, 1 not applicable" in found.output


def test_the_command_lists_all_on_request():
    found = thalweg_check("lion + lookahead(k=2)", "--only", "resume", "--only", "complex", "--all")
    assert found.exit_code == 0, found.output
    assert CHECKS["resume"].reason in found.output
    assert "thalweg.Lion: 2 of 2 pass, 0 not applicable" in found.output
    declared = thalweg_check("lion", "--only", "complex", "--declare", "real-only")
    assert declared.exit_code == 0
    assert "declared real-only: takes no complex parameters" in declared.output


@pytest.mark.parametrize(
    ("spec", "momentum"),
    [
        ("torch.optim.SGD(momentum=0.5)", 0.5),
        ("torch.optim:SGD( momentum = 0.5 )", 0.5),
        ("torch.optim.sgd.SGD", 0),
        ("sgd(momentum=0.25)", 0.25),
    ],
)
def test_optimizers_by_name(spec, momentum):
    optimizer = named_factory(spec)([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    assert optimizer.defaults["momentum"] == momentum
    assert optimizer.defaults["lr"] == 0.5


@thalweg.rule(
    name="test_conformance_rule",
    slots=(thalweg.Slot("mean"),),
    hypers=(thalweg.Hyper("beta", 0.9, low=0.0, high=1.0),),
)
def of_users(g, mean, *, beta):
    mean = ops.lerp(mean, g, 1 - beta)
    return mean, mean


@thalweg.rule(name="test_conformance_broken")
def divides_by_zero(g):
    return g / ops.sum(g * g)  # NaN where gradients are zero


@thalweg.rule(
    name="test_conformance_said",
    sparse=True,
    refuses_complex="no complex",
    scalars=(thalweg.Scalar("total", scope="optimizer"),),
)
def says_much(g, *, total):
    return g, total + ops.sum(g * g, over="all")


NUMBER = 3


def undecorated(g, mean, *, beta):
    return g, mean


def test_a_rule_is_checked_within_its_optimizer():
    report = check_optimizer(of_users)
    assert report.ok, report
    assert report.title == "thalweg.Optimizer(rule=test_conformance_rule)"
    assert len(report.passed) > 40
    failed = {o.name for o in check_optimizer(divides_by_zero).failed}
    assert failed == {"dcp-resume", "dcp-moves-nothing"}


@pytest.mark.parametrize(
    "spec",
    [
        "test_conformance:of_users",
        "test_conformance.of_users",
        "test_conformance:of_users(beta=0.5)",
    ],
)
def test_the_command_takes_a_rule(spec):
    found = thalweg_check(spec, "--only", "resume", "--only", "repeatable")
    assert found.exit_code == 0, found.output
    assert "thalweg.Optimizer(rule=test_conformance_rule): 2 of 2 pass" in found.output
    assert thalweg_check("test_conformance:divides_by_zero", "--only", "dcp-resume").exit_code == 1


def test_a_rule_with_arguments_and_options():
    build = named_factory("test_conformance:of_users(beta=0.5) + cautious + lookahead(k=2)")
    (group,) = build([torch.nn.Parameter(torch.zeros(1))], lr=0.5).param_groups
    assert (group["rule"], group["beta"], group["lr"]) == ("test_conformance_rule", 0.5, 0.5)
    assert set(group["options"]) == {"cautious", "lookahead"}
    assert group["lookahead_k"] == 2
    build = named_factory("thalweg.AdamW(lr=0.25) + average(0.5)")
    (group,) = build([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["average_decay"]) == (0.25, 0.5)


def test_what_a_rule_declares_counts():
    report = check_optimizer(says_much, checks=["complex", "sparse-gradient"])
    assert report.declared == ("coupled", "real-only", "sparse")
    assert [o.name for o in report.not_applicable] == ["complex"]
    report = check_optimizer(
        "lion + cautious", checks=["resume"], capabilities=["real-only"], title="mine"
    )
    assert (report.title, report.declared, report.ok) == ("mine", ("real-only",), True)


@pytest.mark.parametrize("given", [NUMBER, thalweg.options.Cautious(), thalweg.options.Cautious])
def test_what_is_no_optimizer_is_refused(given):
    with pytest.raises(
        ArgumentError, match=r"an option; it is checked around|needed is an optimizer"
    ):
        check_optimizer(given)


class WithoutRate(Sound):
    def __init__(self, params, lr):
        super().__init__(params, lr)


def test_a_rate_without_default_is_filled_in():
    build = named_factory("test_conformance.WithoutRate")
    assert build([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1e-3


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nope.x", "nope.x: cannot import nope: ModuleNotFoundError: No module named 'nope'."),
        ("nope.y:x", "nope.y:x: cannot import nope.y: ModuleNotFoundError"),
        ("torch.optim.Nope", "torch.optim.Nope: torch.optim has no attribute 'Nope'."),
        ("torch.optim.lr_scheduler", "lr_scheduler is a module; needed is an optimizer class"),
        ("torch.optim.SGD(0.1)", "arguments are literals by name"),
        ("torch.optim.SGD(lr=x)", "arguments are literals by name"),
        ("torch.optim.SGD)(", "arguments are literals by name"),
        ("torch.optim.SGD + 3", "options are joined by +"),
        ("torch.optim.SGD + cautious", "torch.optim.SGD takes no options"),
        ("thalweg.AdamW + cautius", "unknown option 'cautius'. Did you mean 'cautious'?"),
        ("liom", "Error: unknown optimizer 'liom'. Did you mean 'lion'?"),
        ("lion + cautius", "Error: unknown option 'cautius'. Did you mean 'cautious'?"),
        (
            "thalweg.options.Cautious",
            "thalweg.options.Cautious is an option; it is checked around an opt",
        ),
        (
            "test_conformance.NUMBER",
            "test_conformance.NUMBER is a int; needed is an optimizer class",
        ),
        (
            "test_conformance:undecorated",
            "an update rule is a function that @thalweg.rule decorates",
        ),
    ],
)
def test_names_that_stand_for_nothing_are_refused_in_one_line(spec, sentence):
    found = thalweg_check(spec)
    assert found.exit_code == 2
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    assert sentence in found.stderr


def test_a_module_that_fails_while_imported_is_named(tmp_path, monkeypatch):
    package = tmp_path / "failing_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("import module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArgumentError, match=r"cannot import failing_package\.inner: ModuleN"):
        import_object("failing_package.inner.Class")


# --- the published table --------------------------------------------------------------------------


def test_the_page_is_what_the_results_say():
    """After `python -m benchmarks.conformance NAME` or `--page` it is."""
    published = json.loads(conformance.RESULTS.read_text())
    assert conformance.PAGE.read_text() == conformance.page(published)
    ours = published["thalweg"]["classes"]
    assert set(ours) == set(OURS)
    assert not [name for name, found in ours.items() if found["failed"]]


def test_the_capabilities_of_a_class_are_found_by_walking_it():
    declared = {
        name: conformance._declared(name, named_factory(f"torch.optim.{name}"))
        for name in ("SGD", "AdamW", "Muon", "SparseAdam")
    }
    assert declared == {
        "SGD": {"sparse"},
        "AdamW": set(),
        "Muon": {"matrix-only", "real-only"},
        "SparseAdam": {"sparse-only", "real-only"},
    }
    assert conformance._declared("Ranger", thalweg.Ranger) == {"real-only"}
