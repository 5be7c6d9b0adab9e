"""Schedules: their formulas against torch's, how they are put together, written and drawn."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torchs

from thalweg import schedules as s
from thalweg.errors import ArgumentError, ArgumentTypeError

STEPS = 1200
BASE = 0.3


def optimizer(base=BASE):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)


def torch_curve(make, steps=STEPS):
    """The lr of a torch scheduler, step by step."""
    torch_optimizer = optimizer()
    scheduler = make(torch_optimizer)
    found = [torch_optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        torch_optimizer.step()
        scheduler.step()
        found.append(torch_optimizer.param_groups[0]["lr"])
    return found


AGAINST_TORCH = {
    "constant": (
        s.constant(1 / 3, 50) >> s.constant(),
        lambda o: torchs.ConstantLR(o, 1 / 3, 50),
    ),
    "linear": (
        s.linear(700, 0.2, 0.9) >> s.constant(0.9),
        lambda o: torchs.LinearLR(o, 0.2, 0.9, 700),
    ),
    "warmup": (s.warmup(700, 0.01), lambda o: torchs.LinearLR(o, 0.01, 1.0, 700)),
    "polynomial": (s.polynomial(1000, 2.5) >> s.constant(0.0), lambda o: torchs.PolynomialLR(o, 1000, 2.5)),
    "cosine": (
        s.cosine(STEPS, end=0.01),
        lambda o: torchs.CosineAnnealingLR(o, STEPS, eta_min=0.01 * BASE),
    ),
    "cosine_restarts": (
        s.cosine_restarts(100, end=0.1),
        lambda o: torchs.CosineAnnealingWarmRestarts(o, 100, eta_min=0.1 * BASE),
    ),
    "cosine_restarts, longer each time": (
        s.cosine_restarts(10, 2),
        lambda o: torchs.CosineAnnealingWarmRestarts(o, 10, 2),
    ),
    "exponential": (s.exponential(0.99), lambda o: torchs.ExponentialLR(o, 0.99)),
    "step": (s.step(100, 0.5), lambda o: torchs.StepLR(o, 100, 0.5)),
    "multi_step": (
        s.multi_step((100, 300, 1100), 0.2),
        lambda o: torchs.MultiStepLR(o, [100, 300, 1100], 0.2),
    ),
    "join": (
        s.warmup(100, 0.25) >> s.cosine(STEPS - 100),
        lambda o: torchs.SequentialLR(
            o,
            [torchs.LinearLR(o, 0.25, 1.0, 100), torchs.CosineAnnealingLR(o, STEPS - 100)],
            [100],
        ),
    ),
    "product": (
        s.warmup(100, 0.25) * s.exponential(0.999),
        lambda o: torchs.ChainedScheduler([
            torchs.LinearLR(o, 0.25, 1.0, 100),
            torchs.ExponentialLR(o, 0.999),
        ]),
    ),
    "one_cycle": (
        s.one_cycle(1.0, 0.01, STEPS),
        lambda o: torchs.LambdaLR(
            o, lambda t: (1 - math.cos(t * math.pi / STEPS)) / 2 * (0.01 - 1.0) + 1.0
        ),
    ),
    "two of them joined, Smith's cycle": (
        s.one_cycle(1 / 25, 1, 0.3 * (STEPS + 1) - 1)
        >> s.one_cycle(1, 1 / 25e4, STEPS - (0.3 * (STEPS + 1) - 1)),
        lambda o: torchs.OneCycleLR(o, BASE, STEPS + 1, cycle_momentum=False),
    ),
    "inverse_sqrt": (
        s.warmup(100) >> s.inverse_sqrt(100),
        lambda o: torchs.LambdaLR(
            o, lambda t: 10 * min(max(t, 1) ** -0.5, t * 100**-1.5)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("ours", "make"), AGAINST_TORCH.values(), ids=AGAINST_TORCH)
def test_every_step_is_torchs(ours, make):
    wanted = torch_curve(make)
    assert len(set(wanted)) > 1
    assert [BASE * x for x in ours.curve(STEPS)] == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize(("ours", "make"), AGAINST_TORCH.values(), ids=AGAINST_TORCH)
def test_every_step_is_torchs_through_the_adapter(ours, make):
    found = torch_curve(lambda o: s.Scheduler(o, ours))
    assert found == pytest.approx(torch_curve(make), rel=0, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_wsd(shape):
    schedule = s.wsd(1000, warmup=100, decay=200, shape=shape, end=0.1)
    assert schedule.curve(100) == pytest.approx(s.warmup(100).curve(100), abs=1e-12)
    assert {schedule(t) for t in range(100, 801)} == {1.0}
    down = {"linear": 0.5, "cosine": 0.5, "1-sqrt": math.sqrt(0.5)}[shape]
    assert schedule(900) == pytest.approx(1 - 0.9 * down, abs=1e-12)
    assert schedule(1000) == pytest.approx(0.1, abs=1e-12)


def test_past_the_end_the_last_value_stays():
    for schedule in (s.cosine(10, 0.25), s.linear(10, 1.0, 0.25), s.polynomial(10, end=0.25)):
        assert schedule(11) == schedule(1000) == schedule(10) == pytest.approx(0.25)
    assert (s.cosine(10) >> s.constant(0.5))(10) == 0.5
    assert s.join(s.constant(), s.cosine(10), at=[5])(10) == pytest.approx(0.5)


def test_lengths():
    assert (s.warmup(500) >> s.cosine(10000)).length == 10500
    assert (s.warmup(500) * s.cosine(10000)).length == 10000
    assert s.per_epoch(s.cosine(10), 7).lasts == 70
    assert (0.5 * s.inverse_sqrt(10)).length is None
    assert (s.warmup(3) >> s.linear(4, 0.5, 1.0)).lasts is None
    assert (s.warmup(3, 0.1) >> s.warmup(4, 1.5) >> s.cosine(5)).warmup_steps == 7
    assert s.wsd(10, 2, 3).warmup_steps == 2
    assert (s.constant(1.0, 5) >> s.warmup(4)).warmup_steps == 9
    assert (s.cosine(5) >> s.warmup(4)).warmup_steps == 0


def test_a_schedule_of_epochs_stays_within_one():
    schedule = s.per_epoch(s.cosine(3), 4)
    assert [schedule(t) for t in range(13)] == [s.cosine(3)(t // 4) for t in range(13)]


numbers = st.floats(0.125, 4.0)
simple = st.one_of(
    st.builds(s.cosine, st.integers(1, 50), numbers),
    st.builds(s.linear, st.integers(1, 50), numbers, numbers),
    st.builds(s.warmup, st.integers(1, 50), numbers),
    st.builds(s.polynomial, st.floats(1, 50), numbers),
    st.builds(s.constant, numbers, st.integers(1, 9)),
    st.builds(s.multi_step, st.lists(st.integers(1, 40), min_size=1).map(sorted).map(tuple)),
    st.builds(s.one_cycle, numbers, numbers, st.integers(1, 50)),
    st.just(s.wsd(40, 5, 5, shape="1-sqrt")),
)
composed = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a >> b if a.length else b * a, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, x: x * a, inner, numbers),
        st.builds(s.per_epoch, inner, st.integers(1, 5)),
        st.builds(lambda a, b, at: s.join(a, b, at=[at]), inner, inner, st.integers(1, 50)),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(composed)
def test_what_is_printed_reads_as_the_same(schedule):
    assert s.parse(repr(schedule)) == schedule
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule == copy.deepcopy(schedule)
    assert again.curve(60) == schedule.curve(60)


@settings(max_examples=100, deadline=None)
@given(composed, composed, st.integers(0, 100), numbers)
def test_what_is_put_together_follows_its_parts(a, b, t, x):
    assert (a * b)(t) == pytest.approx(a(t) * b(t))
    assert (x * a)(t) == pytest.approx(x * a(t))
    at = a.length or 7
    joined = a >> b if a.length else s.join(a, b, at=[at])
    assert joined(t) == pytest.approx(a(t) if t < at else b(t - at), abs=1e-9)


def test_a_name_has_any_case_and_numbers_may_be_fractions():
    assert s.parse("Warmup(5) >> COSINE(10, end=1/4)") == s.warmup(5) >> s.cosine(10, 0.25)


REFUSED = {
    "cosin(100)": "Did you mean 'cosine'",
    "cosine": "needs its arguments, as cosine",
    "warmup(5) >> 3": "joined by >>",
    "warmup(5) + cosine(5)": "joined by >>",
    "cosine(100": "does not read as a schedule",
    "3": "is no schedule",
    "cosine(n)": "unknown schedule 'n'",
    "cosine(0)": "cosine got steps=0",
    "cosine(10, end=1e999)": "finite",
    "constant() >> cosine(5)": "never ends",
    "join(constant(), cosine(5), at=(0,))": "rising steps above 0",
    "wsd(10, 8, 8)": "together more than all its 10",
    "wsd(10, 1, 1, shape='square')": "one of linear, cosine, 1-sqrt",
    "cosine_restarts(10, 0.5)": "mult=0.5; it must be finite and >= 1",
    "multi_step((3, 2))": "must rise",
    "absolute(cosine(3)) >> cosine(4)": "goes outermost",
    "exponential(-1)": "gamma=-1",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=REFUSED)
def test_bad_text(text, said):
    with pytest.raises(ArgumentError, match=said):
        s.parse(text)


@pytest.mark.parametrize(
    "text", ["cosine()", "cosine(3, x=1)", "cosine('3')", "join(3)", "step(True)"]
)
def test_arguments_of_another_kind(text):
    with pytest.raises(ArgumentTypeError):
        s.parse(text)


def test_what_is_no_schedule():
    with pytest.raises(ArgumentTypeError, match="is no schedule"):
        s.as_schedule(3)
    with pytest.raises(ArgumentError, match="counted from 0"):
        s.cosine(3)(-1)
    with pytest.raises(TypeError):
        s.cosine(3) >> 4


@pytest.fixture(params=["png", "svg"])
def picture(request, tmp_path):
    pytest.importorskip("matplotlib")
    return tmp_path / "deep" / f"schedule.{request.param}"


def test_a_schedule_draws_itself(picture):
    schedule = s.warmup(10) >> s.cosine(90)
    axes = schedule.plot(output=picture, base=0.5).axes[0]
    xs, ys = axes.lines[0].get_data()
    assert list(xs) == list(range(101))
    assert list(ys) == [0.5 * schedule(t) for t in range(101)]
    assert picture.stat().st_size > 1000
    assert len(s.step(30).plot(200_000).axes[0].lines[0].get_xdata()) < 5000
    with pytest.raises(ArgumentError, match="never ends"):
        s.exponential(0.5).plot()


def test_eleven_values():
    lines = s.tabulated(s.linear(1000), base=2.0).splitlines()
    assert [line.split() for line in lines[:3]] == [["step", "value"], ["0", "2"], ["100", "1.8"]]
    assert len(lines) == 12
    assert len(s.tabulated(s.step(3), 4).splitlines()) == 6
    assert all(len(a) == len(b) for a, b in itertools.pairwise(lines))
