"""The conformance kit: each check can say no, a sound optimizer passes all, and so do ours."""

import pytest
import torch

import thalweg
from broken_optimizers import BROKEN, CrashesInForks, Sound
from thalweg.conformance import CAPABILITIES, CHECKS, calls, check_optimizer, machine
from thalweg.errors import ArgumentError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(machine, "PATIENCE", 2.0)


def needed(name):
    return CHECKS[name].needs[:1]


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_fails_on_what_is_broken(name):
    broken, said = BROKEN[name]
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


def test_a_crash_in_a_fork_is_told_from_a_hang():
    report = check_optimizer(CrashesInForks, checks=["fork"])
    assert "got an exception or a crash in it" in report.failed[0].message


OURS = dict.fromkeys(thalweg.optim.__all__, ()) | {"SGD": ("sparse",), "Ranger": ("real-only",)}


@pytest.mark.parametrize("name", OURS)
def test_ours_pass_all_that_applies(name):
    report = check_optimizer(getattr(thalweg, name), capabilities=OURS[name])
    assert report.ok, report


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
