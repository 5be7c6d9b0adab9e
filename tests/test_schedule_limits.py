"""Schedules against the length of training, numbers that no optimizer can use, and what is no number."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torchs

import thalweg
from thalweg import schedules as s
from thalweg.cli import app
from thalweg.errors import ArgumentError, ArgumentTypeError, ThalwegError


def optimizer(**more):
    return thalweg.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.5, **more)


TOO_LONG = {
    "a line that rises": (s.linear(5000, 0, 1), 1000),
    "a line, then a cosine": (s.linear(5000, 0, 1) >> s.cosine(9000), 1000),
    "YOLO's cosine upwards": (s.one_cycle(0.1, 1.0, 5000), 1000),
    "a constant before": (s.constant(1, 10) >> s.warmup(500) >> s.cosine(10), 300),
    "of epochs": (s.per_epoch(s.warmup(5) >> s.cosine(90), 10), 45),
    "times a number": (0.5 * s.warmup(500), 300),
    "at once": (s.warmup(500) * s.cosine(1000), 300),
    "towards a schedule": (s.warmed(s.cosine(1000), 500), 300),
    "nothing behind it": (s.warmup(9) >> s.cosine(30), 9),
}


@pytest.mark.parametrize(("schedule", "steps"), TOO_LONG.values(), ids=TOO_LONG)
def test_a_warm_up_longer_than_training_is_refused(schedule, steps):
    with pytest.raises(ArgumentError, match=f"takes .* steps, and training has {steps}; shorten"):
        s.Scheduler(optimizer(), schedule, steps=steps)


FITS = {
    "cut short": (s.join(s.warmup(500), s.cosine(200), at=[100]), 300),
    "a line to the end": (s.linear(1000, 0, 1), 1000),
    "down and up again": (s.warmup(10) >> s.cosine(50) >> s.linear(100, 0, 1), 160),
    "of epochs": (s.per_epoch(s.warmup(3) >> s.cosine(7), 10), 95),
}


@pytest.mark.parametrize(("schedule", "steps"), FITS.values(), ids=FITS)
def test_what_fits_is_taken(schedule, steps):
    s.Scheduler(optimizer(), schedule, steps=steps)


@pytest.mark.parametrize("steps", [0, -3, float("nan"), True, "9"])
def test_a_training_of_no_length(steps):
    with pytest.raises(ArgumentError, match="the length of training is a number of steps"):
        s.Scheduler(optimizer(), s.constant(), steps=steps)


def test_parts_that_are_put_together_pass_on_how_long_they_warm_up_and_last():
    assert s.per_epoch(s.warmup(3) >> s.cosine(7), 10).warmup_steps == 30
    assert s.per_epoch(s.cosine(7), 10).lasts == 70
    assert (0.5 * s.warmup(4)).warmup_steps == 4
    assert (s.warmup(4) * s.warmup(9) * s.cosine(20)).warmup_steps == 9
    assert (s.warmup(4) * s.cosine(20)).lasts == 20
    assert (s.cosine(30) * s.cosine(20)).lasts == 20
    assert (s.warmup(4) * s.warmup(3)).lasts is None
    assert s.warmed(s.cosine(20), 7).warmup_steps == 7
    assert s.warmed(s.cosine(20), 7).lasts == s.warmed(s.cosine(20), 7).length == 20
    assert s.absolute(s.warmup(4)).warmup_steps == 4


def test_warmed_is_read_back_and_arrives_where_the_schedule_is_by_then():
    schedule = s.warmed(s.per_epoch(s.linear(10), 2), 4, start=3.0)
    assert s.parse(repr(schedule)) == schedule
    expected = [3.0, 2.5, 1.95, 1.425, 0.8, 0.8]
    assert [schedule(t) for t in range(6)] == pytest.approx(expected, rel=1e-15)
    assert [s.warmed(s.cosine(9), 4)(t) for t in range(9)] == pytest.approx(
        [(s.warmup(4) * s.cosine(9))(t) for t in range(9)]
    )


# Numbers that no optimizer can use ------------------------------------------------------------------


def after(step):
    return 1.0 if step < 3 else float("nan")


WRONG = {
    "negative": ({"lr": "-1 * cosine(5)"}, "lr of group 0 is -0.5 at step 0 by its schedule"),
    "none at all": ({"lr": lambda t: float("nan")}, "lr of group 0 is nan at step 0"),
    "a momentum of five": (
        {"betas[0]": s.absolute(s.constant(5.0))},
        r"betas\[0\] of group 0 is 5 at step 0 by its schedule; it must be finite and at least 0",
    ),
    "negative later": ({"lr": "cosine(10, end=-1)", "steps": 10}, "lr of group 0 is -.* at step"),
    "an index from behind": ({"betas[-1]": s.constant()}, r"'betas\[-1\]' is no field"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_numbers_that_no_optimizer_can_use_are_refused_at_once(given, said):
    driven = optimizer()
    before = driven.state_dict()
    with pytest.raises(ArgumentError, match=said):
        s.Scheduler(driven, **given)
    assert driven.state_dict() == before


def test_a_number_that_fails_later_is_named_with_its_group_and_step():
    driven = optimizer(options=[])
    driven.param_groups[0]["param_group"] = "head"
    scheduler = s.Scheduler(driven, after, weight_decay="linear(9)")
    for _ in range(2):
        driven.step()
        scheduler.step()
    driven.step()
    decay = driven.param_groups[0]["weight_decay"]
    with pytest.raises(ArgumentError, match=r"lr of group 0 \('head'\) is nan at step 3"):
        scheduler.step()
    assert driven.param_groups[0]["lr"] == 0.5
    assert driven.param_groups[0]["weight_decay"] == decay


def test_a_function_that_returns_nothing():
    with pytest.raises(ArgumentTypeError, match="the schedule of 'lr'"):
        s.Scheduler(optimizer(), lambda t: None)


def test_tags_need_not_be_text():
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [p], "param_group": i} for i, p in enumerate(params)]
    driven = thalweg.SGD(groups, lr=1.0)
    s.Scheduler(driven, {0: s.constant(0.5)})
    assert [g["lr"] for g in driven.param_groups] == [0.5, 1.0]
    with pytest.raises(ArgumentError, match="no group has param_group='0'"):
        s.Scheduler(driven, {"0": s.constant(0.5)})


# What is no number -----------------------------------------------------------------------------------


def test_numbers_of_other_libraries_are_numbers():
    assert s.cosine(np.int64(10)) == s.cosine(10)
    assert repr(s.cosine(np.float32(10), np.float64(0.5))) == "cosine(10.0, end=0.5)"
    assert np.float64(0.5) * s.cosine(10) == s.cosine(10) * 0.5
    assert s.multi_step(np.array([3, 5])) == s.multi_step((3, 5))
    assert s.cosine(10)(torch.tensor(3)) == s.cosine(10)(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: s.multi_step(30),
        lambda: s.multi_step(("a", "b")),
        lambda: s.join(s.cosine(10), s.cosine(5), at=5),
        lambda: s.join(s.cosine(10), s.cosine(5), at=["x"]),
        lambda: s.cosine(10)("a"),
        lambda: s.cosine(10)(None),
        lambda: s.lr_curve(*torch_scheduler(), 5, field="options") and None,
    ],
)
def test_what_is_of_another_kind(make):
    with pytest.raises(ThalwegError, match=r"must be|no number"):
        make()


def torch_scheduler():
    driven = optimizer()
    return driven, torchs.StepLR(driven, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: s.multi_step((float("nan"), 3)), "must rise"),
        (lambda: s.join(s.constant(), s.cosine(5), at=[float("inf")]), "rising steps"),
        (
            lambda: s.exponential(2.0)(2000),
            r"exponential\(2.0\) at step 2000 is beyond all numbers",
        ),
        (lambda: s.cosine_restarts(10)(float("inf")), "finite"),
    ],
)
def test_what_is_out_of_range(make, said):
    with pytest.raises(ArgumentError, match=said):
        make()


def test_the_command_line_says_what_is_beyond_all_numbers(tmp_path):
    testing = pytest.importorskip("typer.testing")
    arguments = ["schedule", "exponential(2.0)", "--steps", "2000", "--output"]
    result = testing.CliRunner().invoke(app(), [*arguments, str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert "beyond all numbers" in result.output


def test_metrics_that_are_too_few():
    driven = optimizer()
    plateau = torchs.ReduceLROnPlateau(driven)
    with pytest.raises(ArgumentError, match="metrics has 1 values, and 5 epochs need 4"):
        s.lr_curve(driven, plateau, 5, metrics=[1.0])
    with pytest.raises(ArgumentError, match="whole number of at least 1"):
        s.lr_curve(driven, plateau, "5")


def drawing(epoch):
    return float(torch.rand(()))


def test_a_curve_leaves_torchs_random_numbers_alone():
    driven = optimizer()
    scheduler = torchs.LambdaLR(driven, drawing)
    before = torch.get_rng_state()
    s.lr_curve(driven, scheduler, 5)
    assert torch.equal(before, torch.get_rng_state())
