"""The adapter: any field of any group, as torch's schedulers; and torch's schedulers on our optimizers."""

import copy
import io
import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as torchs

import thalweg
from thalweg import schedules as s
from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError


def two_groups(make=thalweg.AdamW, **more):
    tags = ("weight", "bias")
    params = [torch.nn.Parameter(torch.ones(2)) for _ in tags]
    groups = [
        {"params": [p], "lr": lr, "param_group": tag, "weight_decay": lr / 10}
        for p, lr, tag in zip(params, (0.5, 0.125), tags, strict=True)
    ]
    return make(groups, **more)


def run(scheduler, steps, read):
    found = []
    for _ in range(steps):
        found.append(read(scheduler.optimizer.param_groups))
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_each_group_moves_from_its_own_base():
    schedule = s.cosine(10)
    optimizer = two_groups()
    found = run(s.Scheduler(optimizer, schedule), 10, lambda gs: [g["lr"] for g in gs])
    assert found == [[0.5 * schedule(t), 0.125 * schedule(t)] for t in range(10)]


def test_any_field_is_driven():
    optimizer = two_groups(betas=(0.9, 0.99))
    scheduler = s.Scheduler(
        optimizer,
        weight_decay="linear(8)",
        **{"betas[1]": s.absolute(s.linear(8, 0.9, 0.5))},
    )
    found = run(scheduler, 8, lambda gs: [(g["lr"], g["weight_decay"], g["betas"]) for g in gs])
    for t, values in enumerate(found):
        for (lr, decay, betas), base in zip(values, (0.5, 0.125), strict=True):
            assert lr == base
            assert decay == pytest.approx(base / 10 * (1 - t / 8), abs=1e-15)
            assert betas == (0.9, pytest.approx(0.9 - 0.05 * t))
    assert type(optimizer.param_groups[0]["betas"]) is tuple


def test_what_is_driven_is_what_steps():
    """The same weights as from an optimizer whose numbers are set by hand."""
    driven, by_hand = (two_groups(thalweg.SGD, momentum=0.9) for _ in range(2))
    schedule, momentum = s.warmup(3) >> s.cosine(5), s.absolute(s.linear(6, 0.8, 0.95))
    scheduler = s.Scheduler(driven, schedule, momentum=momentum)
    for t in range(8):
        for g, base in zip(by_hand.param_groups, (0.5, 0.125), strict=True):
            g["lr"], g["momentum"] = base * schedule(t), momentum(t)
        for o in (driven, by_hand):
            for g in o.param_groups:
                g["params"][0].grad = torch.tensor([1.0, -0.5])
            o.step()
        scheduler.step()
    for a, b in zip(driven.param_groups, by_hand.param_groups, strict=True):
        assert torch.equal(a["params"][0], b["params"][0])
        assert not torch.equal(a["params"][0], torch.ones(2))


def test_a_schedule_for_each_group_by_tag_or_in_a_list():
    by_tag = {"bias": s.warmup(4, 10.0)}
    for given in (by_tag, [None, by_tag["bias"]]):
        found = run(s.Scheduler(two_groups(), given), 4, lambda gs: [g["lr"] for g in gs])
        assert found == [[0.5, 0.125 * s.warmup(4, 10.0)(t)] for t in range(4)]


def double_then_half(step):
    return 2.0 if step < 3 else 0.5


def test_a_function_of_the_step_is_a_schedule():
    found = run(s.Scheduler(two_groups(), double_then_half), 5, lambda gs: gs[0]["lr"])
    assert found == [1.0, 1.0, 1.0, 0.25, 0.25]


def test_tensors_are_filled_in_place():
    lr, decay = (torch.tensor(x, dtype=torch.float64) for x in (0.5, 0.25))
    optimizer = thalweg.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr, weight_decay=decay)
    run(s.Scheduler(optimizer, "linear(4)", weight_decay="linear(2)"), 1, lambda gs: None)
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.param_groups[0]["weight_decay"] is decay
    assert (lr.item(), decay.item()) == (0.375, 0.125)


def test_a_group_that_is_added_later_is_driven_from_its_own_base():
    optimizer = two_groups()
    scheduler = s.Scheduler(optimizer, "linear(10)")
    run(scheduler, 4, lambda gs: None)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0})
    run(scheduler, 1, lambda gs: None)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.25, 0.0625, 0.5])


def resumed(scheduler_state, optimizer_state, schedule):
    buffer = io.BytesIO()
    torch.save((scheduler_state, optimizer_state), buffer)
    buffer.seek(0)
    scheduler_state, optimizer_state = torch.load(buffer, weights_only=True)
    optimizer = two_groups(betas=(0.5, 0.5))
    scheduler = s.Scheduler(optimizer, schedule, **{"betas[0]": "linear(20)"})
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    return scheduler


def test_resuming_goes_on_as_if_nothing_had_been():
    def read(groups):
        return [(g["lr"], g["betas"]) for g in groups]

    schedule = s.warmup(3) >> s.cosine(17)
    whole = run(s.Scheduler(two_groups(), schedule, **{"betas[0]": "linear(20)"}), 12, read)
    first = s.Scheduler(two_groups(), schedule, **{"betas[0]": "linear(20)"})
    run(first, 5, lambda gs: None)
    again = resumed(first.state_dict(), first.optimizer.state_dict(), schedule)
    assert again.last_epoch == 5
    assert again.get_last_lr() == first.get_last_lr()
    assert run(again, 7, read) == whole[5:]
    with pytest.raises(CheckpointError, match=r"schedule of 'lr' is warmup\(3\) >> cosine\(17\)"):
        resumed(first.state_dict(), first.optimizer.state_dict(), "cosine(20)")


def test_last_epoch_alone_resumes():
    """As Ultralytics does: it never saves a scheduler."""
    optimizer = two_groups()
    scheduler = s.Scheduler(optimizer, "cosine(10)")
    scheduler.last_epoch = 6
    run(scheduler, 1, lambda gs: None)
    assert optimizer.param_groups[0]["lr"] == 0.5 * s.cosine(10)(7)
    other = s.Scheduler(optimizer, "cosine(10)", last_epoch=3)
    assert optimizer.param_groups[0]["lr"] == 0.5 * s.cosine(10)(4)
    assert isinstance(other, torchs.LRScheduler)


def test_timms_lr_scale_is_honoured():
    optimizer = two_groups()
    optimizer.param_groups[1]["lr_scale"] = 0.5
    found = run(s.Scheduler(optimizer, "linear(4)"), 4, lambda gs: [g["lr"] for g in gs])
    assert found == [[0.5 * (1 - t / 4), 0.0625 * (1 - t / 4)] for t in range(4)]


def test_it_is_one_of_torchs_in_a_sequence():
    optimizer = two_groups()
    first, second = (s.Scheduler(optimizer, text) for text in ("warmup(3, 0.5)", "linear(4)"))
    found = run(torchs.SequentialLR(optimizer, [first, second], [3]), 7, lambda gs: gs[0]["lr"])
    assert found == pytest.approx([0.5 * (s.warmup(3, 0.5) >> s.linear(4))(t) for t in range(7)])


@pytest.mark.filterwarnings("ignore:Seems like")  # torch's: a copied optimizer's step is unpatched
def test_a_copy_goes_on_alone():
    scheduler = s.Scheduler(two_groups(), "linear(10)")
    copied = copy.deepcopy(scheduler)
    run(copied, 3, lambda gs: None)
    assert scheduler.last_epoch == 0
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.5


def test_it_says_when_it_runs_past_its_end():
    scheduler = s.Scheduler(two_groups(), "cosine(3)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(scheduler, 3, lambda gs: None)
        with pytest.raises(UserWarning, match=r"cosine\(3\) ended at step 3, and this is step 4"):
            run(scheduler, 1, lambda gs: None)
        run(scheduler, 2, lambda gs: None)  # once


BAD = {
    "nothing to drive": (lambda o: s.Scheduler(o), "no schedule"),
    "no such field": (
        lambda o: s.Scheduler(o, weight_deacy="cosine(3)"),
        r"group 0 \('weight'\) has no 'weight_deacy' to drive. Did you mean 'weight_decay'",
    ),
    "a field that is no number": (
        lambda o: s.Scheduler(o, betas="cosine(3)"),
        "name one of its numbers",
    ),
    "an index too far": (lambda o: s.Scheduler(o, **{"betas[2]": "cosine(3)"}), r"betas\[2\]"),
    "a flag": (lambda o: s.Scheduler(o, maximize="cosine(3)"), "no number to drive"),
    "too few": (lambda o: s.Scheduler(o, ["cosine(3)"]), "1 schedules for 2 groups"),
    "no such tag": (lambda o: s.Scheduler(o, {"biass": "cosine(3)"}), "Did you mean 'bias'"),
    "shorter than training": (
        lambda o: s.Scheduler(o, "warmup(2) >> cosine(3)", steps=6),
        r"lr: warmup\(2\) >> cosine\(3\) ends at step 5, and training has 6",
    ),
    "a warm-up longer than training": (
        lambda o: (
            s.Scheduler(o, momentum=1.0, lr="warmup(9) >> cosine(30)", steps=9)
            if False
            else s.Scheduler(o, "warmup(9) >> cosine(30)", steps=9)
        ),
        r"lr: the warm-up of .* takes 9 steps, and training has 9",
    ),
    "resuming what never began": (
        lambda o: s.Scheduler(o, "cosine(3)", last_epoch=3),
        "group 0 has no 'initial_lr'",
    ),
}


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
def test_bad_input(make, said):
    optimizer = two_groups()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ArgumentError, match=said):
        make(optimizer)
    assert optimizer.state_dict() == before


def test_what_is_of_another_kind():
    with pytest.raises(ArgumentTypeError, match="list is not an Optimizer"):
        s.Scheduler([], "cosine(3)")
    with pytest.raises(ArgumentTypeError, match="is no schedule"):
        s.Scheduler(two_groups(), 0.5)
    with pytest.raises(CheckpointError, match="no Scheduler's state_dict"):
        s.Scheduler(two_groups(), "cosine(3)").load_state_dict({"last_epoch": 3})
    saved = s.Scheduler(two_groups(), "cosine(3)").state_dict()
    saved["bases"]["initial_lr"].append(1.0)
    with pytest.raises(CheckpointError, match="of 3 groups, the optimizer has 2"):
        s.Scheduler(two_groups(), "cosine(3)").load_state_dict(saved)


def fits_training(optimizer):
    return s.Scheduler(optimizer, "warmup(5) >> cosine(5)", momentum="warmup(3, 0.9)", steps=10)


def test_a_schedule_as_long_as_training_is_taken():
    assert fits_training(two_groups(thalweg.SGD, momentum=0.9)).last_epoch == 0


def test_a_schedule_is_a_lambda_for_torch():
    """As Ultralytics and many loops take it; torch saves what a callable object holds."""
    optimizer = two_groups()
    scheduler = torchs.LambdaLR(optimizer, [s.cosine(10), s.linear(10)])
    found = run(scheduler, 4, lambda gs: [g["lr"] for g in gs])
    assert found == [[0.5 * s.cosine(10)(t), 0.125 * s.linear(10)(t)] for t in range(4)]
    other = torchs.LambdaLR(two_groups(), [s.cosine(3), s.linear(3)])
    other.load_state_dict(scheduler.state_dict())
    assert (other.lr_lambdas, other.last_epoch) == ([s.cosine(10), s.linear(10)], 4)


# torch's own schedulers ---------------------------------------------------------------------------

TORCHS = {
    "LambdaLR": lambda o: torchs.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (t + 1)]),
    "MultiplicativeLR": lambda o: torchs.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: torchs.StepLR(o, 3),
    "MultiStepLR": lambda o: torchs.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: torchs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: torchs.LinearLR(o, 0.25, 1.0, 6),
    "ExponentialLR": lambda o: torchs.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: torchs.SequentialLR(
        o, [torchs.LinearLR(o, 0.25, 1.0, 4), torchs.CosineAnnealingLR(o, 8)], [4]
    ),
    "PolynomialLR": lambda o: torchs.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, 10, 0.01),
    "ChainedScheduler": lambda o: torchs.ChainedScheduler(
        [
            torchs.LinearLR(o, 0.25, 1.0, 4),
            torchs.ExponentialLR(o, 0.9),
        ]
    ),
    "ReduceLROnPlateau": lambda o: torchs.ReduceLROnPlateau(o, patience=2),
    "CyclicLR": lambda o: torchs.CyclicLR(o, 0.01, 0.5, 3, mode="exp_range", gamma=0.9),
    "CosineAnnealingWarmRestarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, 3, 2),
    "OneCycleLR": lambda o: torchs.OneCycleLR(o, 0.5, 14),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=5),
}
METRICS = [1.0, 0.5, 0.6, 0.7, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]

OURS = {
    "sgd": lambda gs: thalweg.SGD(gs, momentum=0.9),
    "lion": lambda gs: thalweg.Lion(gs),
    "adamw with options": lambda gs: thalweg.AdamW(
        gs, options=[thalweg.options.Lookahead(k=2), thalweg.options.Cautious()]
    ),
    "lookahead around torch's": lambda gs: thalweg.Lookahead(torch.optim.SGD(gs, momentum=0.9)),
    "sam": lambda gs: thalweg.SAM(thalweg.SGD(gs, momentum=0.9)),
}


def numbers(optimizer):
    return [
        {k: g[k] for k in ("lr", "momentum", "betas") if k in g} for g in optimizer.param_groups
    ]


def step(scheduler, i):
    plateau = isinstance(scheduler, torchs.ReduceLROnPlateau)
    scheduler.step(METRICS[i]) if plateau else scheduler.step()


def slope(optimizer):
    """What a closure leaves behind."""
    for g in optimizer.param_groups:
        g["params"][0].grad = torch.ones(2)
    return 0.0


def walk(make, make_scheduler):
    optimizer = make(
        [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in (0.5, 0.25)]
    )
    scheduler, found = make_scheduler(optimizer), []
    for i in range(len(METRICS)):
        found.append(numbers(optimizer))
        optimizer.step(lambda: slope(optimizer))
        step(scheduler, i)
    assert all(g["params"][0].isfinite().all() for g in optimizer.param_groups)
    assert all((g["params"][0] < 1).all() for g in optimizer.param_groups)
    return found


def test_all_of_torchs_schedulers_are_here():
    names = {n for n in torchs.__all__ if n != "LRScheduler"} | {"SWALR"}
    assert names <= set(TORCHS)


@pytest.mark.parametrize("make_scheduler", TORCHS.values(), ids=TORCHS)
@pytest.mark.parametrize("name", OURS)
def test_torchs_schedulers_do_to_our_optimizers_what_they_do_to_torchs(name, make_scheduler):
    found = walk(OURS[name], make_scheduler)
    betas = "betas" in found[0][0]
    theirs = walk(
        (lambda gs: torch.optim.AdamW(gs, betas=found[0][0]["betas"]))
        if betas
        else (lambda gs: torch.optim.SGD(gs, momentum=0.9)),
        make_scheduler,
    )
    if make_scheduler in (TORCHS["CyclicLR"], TORCHS["OneCycleLR"]):  # these change momentum too
        assert [[g["lr"] for g in gs] for gs in found] == [[g["lr"] for g in gs] for gs in theirs]
        key = "betas" if betas else "momentum"
        assert len({gs[0][key] for gs in found}) > 3
    else:
        assert found == theirs
    assert len({gs[0]["lr"] for gs in found}) > 1


@pytest.mark.parametrize("make_scheduler", TORCHS.values(), ids=TORCHS)
@pytest.mark.parametrize("make", [torch.optim.SGD, thalweg.SGD])
def test_a_curve_foretells_and_touches_nothing(make, make_scheduler):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in (0.5, 0.25)]
    optimizer = make(groups, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    metrics = METRICS if isinstance(scheduler, torchs.ReduceLROnPlateau) else None
    for i in range(2):
        optimizer.step()
        step(scheduler, i)
    before = copy.deepcopy((optimizer.state_dict(), _state(scheduler)))
    rng = torch.get_rng_state()
    curves = s.lr_curve(optimizer, scheduler, 10, metrics=metrics and metrics[2:])
    assert (optimizer.state_dict(), _state(scheduler)) == before
    assert torch.equal(torch.get_rng_state(), rng)
    for i in range(10):
        assert [c[i] for c in curves] == [g["lr"] for g in optimizer.param_groups]
        optimizer.step()
        step(scheduler, i + 2)


def test_a_curve_leaves_a_tensor_and_a_wrapped_optimizer_alone():
    inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.5))
    scheduler = torchs.StepLR(inner, 2, 0.5)
    for optimizer in (inner, thalweg.Lookahead(inner)):
        assert s.lr_curve(optimizer, scheduler, 4) == [[0.5, 0.5, 0.25, 0.25]]
        assert inner.param_groups[0]["lr"].item() == 0.5
        assert scheduler.last_epoch == 0


def _state(scheduler):
    """All that a scheduler remembers, nested ones too, as far as it can be compared."""
    own = {
        k: v
        for k, v in vars(scheduler).items()
        if isinstance(v, (int, float, str, list, tuple, dict, type(None))) and k != "_schedulers"
    }
    return own, [_state(each) for each in getattr(scheduler, "_schedulers", ())]


def test_plot_lr_draws_each_groups_line_once(tmp_path):
    pytest.importorskip("matplotlib")
    optimizer = two_groups()
    scheduler = s.Scheduler(optimizer, {"weight": "cosine(10)"})
    path = tmp_path / "lr.png"
    figure = s.plot_lr(optimizer, scheduler, 11, path)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["weight", "bias"]
    assert list(lines[0].get_ydata()) == [0.5 * s.cosine(10)(t) for t in range(11)]
    assert path.read_bytes().startswith(b"\x89PNG")
    plateau = torchs.ReduceLROnPlateau(optimizer, patience=2)
    figure = s.plot_lr(optimizer, plateau, 10)
    assert any("improves no more" in t.get_text() for t in figure.axes[0].texts)
    assert optimizer.param_groups[0]["lr"] == 0.5
    one = thalweg.SGD([{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(3)], lr=0.1)
    assert len(s.plot_lr(one, torchs.StepLR(one, 3), 5).axes[0].lines) == 1
    momentum = torchs.OneCycleLR(two_groups(), 0.5, 10)
    drawn = s.plot_lr(momentum.optimizer, momentum, 10, field="betas[0]")
    assert math.isclose(min(drawn.axes[0].lines[0].get_ydata()), 0.85, abs_tol=0.01)


def test_plot_lr_refuses():
    optimizer = two_groups()
    scheduler = torchs.StepLR(optimizer, 3)
    with pytest.raises(ArgumentTypeError, match="a schedule alone is drawn by"):
        s.plot_lr(optimizer, s.cosine(3), 3)
    with pytest.raises(ArgumentError, match="another optimizer"):
        s.plot_lr(two_groups(), scheduler, 3)
    with pytest.raises(ArgumentError, match="at least 1"):
        s.lr_curve(optimizer, scheduler, 0)
    with pytest.raises(ArgumentError, match="no 'momentum'"):
        s.lr_curve(optimizer, scheduler, 3, field="momentum")
