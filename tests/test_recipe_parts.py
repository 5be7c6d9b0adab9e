"""The parts of a recipe, each alone: averages, accumulation, monitor, writers."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import os

import pytest
import torch
from torch import nn

import thalweg
from thalweg.errors import ArgumentError, CheckpointError, StepError, ThalwegError
from thalweg.recipe import (
    Accumulate,
    CSVWriter,
    ModelAverage,
    Monitor,
    TensorBoardWriter,
    learning_rates,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def wander(model: nn.Module) -> None:
    """Move every parameter, and let batch norm see a batch."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: x.clone() for n, x in model.state_dict().items()}


# ModelAverage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [None, 5.0])
def test_ema_of_parameters_and_buffers(tau: float | None) -> None:
    model = network()
    average = ModelAverage(model, decay=0.9, tau=tau)
    expected = {n: x.double() for n, x in model.state_dict().items()}
    for t in range(1, 8):
        wander(model)
        average.update()
        d = 0.9 if tau is None else 0.9 * (1 - math.exp(-t / tau))
        for n, x in model.state_dict().items():
            expected[n] = d * expected[n] + (1 - d) * x if x.is_floating_point() else x.double()
    with average.averaged():
        for n, x in model.state_dict().items():
            torch.testing.assert_close(x.double(), expected[n].double(), rtol=1e-6, atol=1e-6)
    assert int(average.state_dict()["average"]["1.num_batches_tracked"]) == 7


def test_swa_is_the_mean_of_what_it_saw() -> None:
    model, seen = network(), []
    average = ModelAverage(model, "swa")
    for _ in range(5):
        wander(model)
        average.update()
        seen.append(model[0].weight.detach().clone())
    with average.averaged():
        torch.testing.assert_close(model[0].weight, torch.stack(seen).mean(0))


def test_averaged_exchanges_values_and_never_pointers() -> None:
    model = network()
    average = ModelAverage(model, decay=0.5, tau=None)
    wander(model)
    average.update()
    before = numbers(model)
    pointers = {n: x.data_ptr() for n, x in model.state_dict().items()}
    with contextlib.suppress(KeyError), average.averaged():
        assert {n: x.data_ptr() for n, x in model.state_dict().items()} == pointers
        assert not torch.equal(model[0].weight, before["0.weight"])
        for what in (average.update, average.averaged().__enter__):
            with pytest.raises(StepError, match="leave the with block"):
                what()
        raise KeyError
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert {n: x.data_ptr() for n, x in model.state_dict().items()} == pointers
    average.update()


def test_a_backward_through_averaged_weights_is_refused_as_torch_refuses_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    average = ModelAverage(model)
    loss = model(torch.ones(1, 2)).sum()
    with average.averaged():
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_statistics_computed_within_the_block_stay_the_averages() -> None:
    model = network()
    average = ModelAverage(model, "swa")
    wander(model)
    average.update()
    own = model[1].running_mean.clone()
    with average.averaged():
        torch.optim.swa_utils.update_bn([torch.full((8, 3), 7.0)], model)
        anew = model[1].running_mean.clone()
    assert torch.equal(model[1].running_mean, own)
    assert not torch.equal(own, anew)
    with average.averaged():
        assert torch.equal(model[1].running_mean, anew)


def test_parameters_changed_within_the_block_change_nothing() -> None:
    model = network()
    average = ModelAverage(model, "swa")
    wander(model)
    average.update()
    before = {n: x.clone() for n, x in average.state_dict()["average"].items()}
    with average.averaged(), torch.no_grad():
        model[0].weight.add_(1.0)
    assert torch.equal(average.state_dict()["average"]["0.weight"], before["0.weight"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModelAverage(nn.LazyLinear(3)), "'weight' has no shape yet: run a batch"),
        (lambda: ModelAverage(5), "ModelAverage averages a torch.nn.Module, got int"),
        (lambda: ModelAverage(network(), dtype="bfloat16"), "dtype is 'bfloat16'; it is a torch"),
        (lambda: ModelAverage(network(), decay="0.9"), "decay='0.9'; it must be a number"),
    ],
)
def test_what_cannot_be_averaged(make, said: str) -> None:
    with pytest.raises(ThalwegError, match=said):
        make()


def test_the_dtype_is_ones_choice_and_float32_at_least_by_default() -> None:
    model = network().bfloat16()
    kept = ModelAverage(model).state_dict()["average"]
    assert {x.dtype for x in kept.values()} == {torch.float32, torch.int64}
    average = ModelAverage(network(), dtype=torch.bfloat16, decay=0.5, tau=None)
    average.update()
    assert average.state_dict()["average"]["0.weight"].dtype is torch.bfloat16
    average = ModelAverage(model, decay=0.999, tau=None)
    start = average.state_dict()["average"]["0.bias"].clone()
    with torch.no_grad():
        model[0].bias.add_(1.0)
    for _ in range(1000):
        average.update()
    moved = (average.state_dict()["average"]["0.bias"] - start).mean()
    assert float(moved) == pytest.approx(1 - 0.999**1000, rel=0.02)


def test_tied_weights_are_kept_once_and_other_buffers_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.register_buffer("cache", torch.ones(1), persistent=False)
    model.register_buffer("table", torch.ones(1))
    assert set(ModelAverage(model).state_dict()["average"]) == {
        *("0.weight", "0.bias", "1.bias", "table")
    }


def test_no_deepcopy_of_the_model() -> None:
    class Once(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise AssertionError("deepcopy")

    average = ModelAverage(Once(2, 2))
    average.update()
    with average.averaged():
        pass


def test_sharded_parameters_beside_whole_buffers(tmp_path) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        sharded, whole = network(), network()
        fsdp.fully_shard(sharded, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        for model in (sharded, whole):
            average = ModelAverage(model, decay=0.5, tau=None)
            torch.manual_seed(5)
            data = torch.randn(8, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                model(data).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                average.update()
            with average.averaged():
                found = model(data)
            if model is sharded:
                expected = found.detach()
        torch.testing.assert_close(found, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_an_average_that_restarts_is_a_new_one() -> None:
    model = network()
    average = ModelAverage(model, "swa")
    for _ in range(3):
        wander(model)
        average.update()
    average.restart()
    wander(model)
    average.update()
    assert average.updates == 1
    with average.averaged():
        averaged = numbers(model)
    assert all(torch.equal(x, averaged[n]) for n, x in model.state_dict().items())


@pytest.mark.parametrize("change", ["replaced", "gone", "new", "shape"])
def test_a_model_whose_parameters_changed_is_refused(change: str) -> None:
    model = network()
    average = ModelAverage(model)
    before = {n: x.clone() for n, x in average.state_dict()["average"].items()}
    if change == "replaced":
        model[2] = nn.Conv1d(4, 2, 1)
    elif change == "gone":
        del model[2]
    elif change == "new":
        model.append(nn.Linear(2, 2))
    else:
        model[2] = nn.Linear(4, 5)
    match = {"new": "'3.weight' is new", "gone": "'2.weight' is gone"}.get(
        change, r"'2.weight' has"
    )
    with pytest.raises(StepError, match=match):
        average.update()
    assert average.updates == 0
    assert all(torch.equal(x, before[n]) for n, x in average.state_dict()["average"].items())


def test_a_replaced_module_of_the_same_shapes_is_followed() -> None:
    model = network()
    average = ModelAverage(model, "swa")
    model[2] = nn.Linear(4, 2)
    average.update()
    assert torch.equal(average.state_dict()["average"]["2.weight"], model[2].weight)


def test_an_average_resumes_to_the_bit(tmp_path) -> None:
    model = network()
    average = ModelAverage(model, decay=0.9, tau=10)
    for _ in range(3):
        wander(model)
        average.update()
    torch.save([model.state_dict(), average.state_dict()], tmp_path / "x.pt")
    weights, state = torch.load(tmp_path / "x.pt", weights_only=True)
    other = network()
    other.load_state_dict(weights)
    again = ModelAverage(other, decay=0.9, tau=10)
    again.load_state_dict(state)
    for m, a in ((model, average), (other, again)):
        torch.manual_seed(3)
        wander(m)
        a.update()
    assert again.updates == 4
    for n, x in average.state_dict()["average"].items():
        assert torch.equal(x, again.state_dict()["average"][n])


def test_another_models_average_is_refused_and_nothing_changed() -> None:
    average = ModelAverage(network())
    state = copy.deepcopy(average.state_dict())
    state["average"]["0.weight"] += 1
    state["average"]["2.weight"] = torch.ones(3, 3)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(CheckpointError, match=r"'2.weight' has shape \(3, 3\), here \(2, 4\)"):
        average.load_state_dict(state)
    with pytest.raises(CheckpointError, match="'swa'"):
        average.load_state_dict({**before, "kind": "swa"})
    with pytest.raises(CheckpointError, match="'updates' missing"):
        average.load_state_dict({"kind": "ema", "average": {}})
    assert torch.equal(average.state_dict()["average"]["0.weight"], before["average"]["0.weight"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"decay": 1.0}, "Invalid decay"),
        ({"tau": 0.0}, "Invalid tau"),
        ({"kind": "mean"}, "unknown kind"),
        ({"dtype": torch.int8}, "floating point"),
    ],
)
def test_bad_numbers_of_an_average(arguments: dict, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        ModelAverage(network(), **arguments)


# Accumulate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 10, 16, 24, 40, 64, 100])
def test_a_step_is_due_as_the_formula_says(batch_size: int) -> None:
    accumulate = Accumulate(batch_size, 64, warmup=37)
    last = -1
    for i in range(120):
        ramp = 1 + (64 / batch_size - 1) * min(i, 37) / 37
        due = i - last >= max(round(round(ramp, 9)), 1)
        assert accumulate.advance() == due, i
        last = i if due else last


def test_the_decay_follows_the_batch() -> None:
    assert Accumulate(64, 64).weight_decay(5e-4) == 5e-4
    assert Accumulate(128, 64).weight_decay(5e-4) == 1e-3
    assert Accumulate(24, 64, warmup=100).weight_decay(5e-4) == 5e-4 * 24 * 3 / 64


def test_mean_divides_by_the_batches_of_its_own_step() -> None:
    accumulate = Accumulate(8, 64, warmup=40, reduction="mean")
    weights: list[float] = []
    sizes = set()
    for _ in range(100):
        weights.append(accumulate.scale(1.0))
        if accumulate.advance():
            assert sum(weights) == pytest.approx(1.0)
            sizes.add(len(weights))
            weights = []
    assert sizes >= {1, 2, 5, 8}
    assert Accumulate(8, 64).scale(3.0) == 3.0


def test_accumulation_resumes_within_a_step() -> None:
    ours = [Accumulate(8, 64, warmup=30, reduction="mean") for _ in range(2)]
    due = [ours[0].advance() for _ in range(60)]
    for cut in range(60):
        ours[1] = Accumulate(8, 64, warmup=30, reduction="mean")
        for _ in range(cut):
            ours[1].advance()
        again = Accumulate(8, 64, warmup=30, reduction="mean")
        again.load_state_dict(ours[1].state_dict())
        assert again.pending == ours[1].pending
        assert [(again.scale(1.0), again.advance())[1] for _ in range(60 - cut)] == due[cut:]
    with pytest.raises(CheckpointError, match="batch_size is 8, this Accumulate's 4"):
        Accumulate(4, 64, warmup=30, reduction="mean").load_state_dict(ours[0].state_dict())


def test_processes_exchange_gradients_only_when_a_step_is_due(tmp_path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
        exchanged = []

        def hook(_, bucket):
            exchanged.append(accumulate.batch)
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        model.register_comm_hook(None, hook)
        accumulate = Accumulate(16, 64)
        for _ in range(8):
            with accumulate.no_sync(model):
                loss = model(torch.ones(1, 2)).sum()
            loss.backward()
            accumulate.advance()
        assert exchanged == [3, 7]
        assert torch.equal(model.module.weight.grad, torch.full((1, 2), 8.0))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "arguments",
    [(0,), (2.5,), (8, 0), (True,), (8, 64, {"warmup": -1}), (8, 64, {"reduction": "x"})],
)
def test_bad_numbers_of_an_accumulation(arguments: tuple) -> None:
    *args, named = (*arguments, {}) if not isinstance(arguments[-1], dict) else arguments
    with pytest.raises(ArgumentError):
        Accumulate(*args, **named)


# Monitor and writers ------------------------------------------------------------------------------


class Notes:
    def __init__(self) -> None:
        self.of: dict[int, dict[str, float]] = {}

    def write(self, numbers, step: int) -> None:
        self.of[step] = dict(numbers)


@pytest.mark.parametrize("cls", [thalweg.AdamW, torch.optim.AdamW])
def test_the_monitor_measures_every_so_many_steps(cls: type) -> None:
    model, notes = network(), Notes()
    optimizer = cls(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}], lr=0.1
    )
    Monitor(optimizer, every=3, writers=[notes])
    for step in range(7):
        before = [p.detach().clone() for p in model[2].parameters()]
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        if step in (0, 3, 6):
            after = [p.detach() for p in model[2].parameters()]
            size = math.sqrt(sum(float(x.square().sum()) for x in before))
            moved = math.sqrt(
                sum(float((y - x).square().sum()) for x, y in zip(before, after, strict=True))
            )
            grad = math.sqrt(sum(float(p.grad.square().sum()) for p in model[2].parameters()))
            found = notes.of[step + 1]
            assert found["update/weight/group1"] == pytest.approx(moved / size, rel=1e-5)
            assert found["gradient norm/group1"] == pytest.approx(grad, rel=1e-5)
            assert found["effective lr/group1"] == pytest.approx(moved / grad, rel=1e-5)
            assert found["x/lr1"] == 0.5
        optimizer.zero_grad()
    assert sorted(notes.of) == [1, 4, 7]


class Asked(list):
    """Groups that count how often they are looked at."""

    looks = 0

    def __iter__(self):
        type(self).looks += 1
        return super().__iter__()


def test_a_step_that_is_passed_over_looks_at_no_group_and_runs_nothing() -> None:
    """Whatever the way to the parameters is: through the groups, or through operations on tensors."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.calls += not str(func).startswith("profiler")
            return func(*args, **(kwargs or {}))

    class Still(torch.optim.Optimizer):
        def __init__(self, params) -> None:
            super().__init__(params, {"lr": 0.5})

        def step(self, closure=None) -> None:
            pass

    optimizer = Still(network().parameters())
    monitor = Monitor(optimizer, every=3)
    optimizer.param_groups = Asked(optimizer.param_groups)
    found = []
    for _ in range(7):
        Asked.looks = Count.calls = 0
        with Count():
            optimizer.step()
        found.append((Asked.looks > 0, Count.calls > 0))
    assert found == [(i % 3 == 0, i % 3 == 0) for i in range(7)]
    assert monitor.steps == 7


def test_the_monitor_by_layer_needs_names() -> None:
    model = network()
    optimizer = thalweg.SGD(model.parameters(), lr=0.5)
    with pytest.raises(ArgumentError, match="parameter 0 of group 0"):
        Monitor(optimizer, by="layer")
    monitor = Monitor(optimizer, by="layer", names=list(model.named_parameters()))
    named = thalweg.SGD(model.named_parameters(), lr=0.5)
    other = Monitor(named, by="layer")
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    named.step()
    for m in (monitor, other):
        assert {f"effective lr/{layer}" for layer in "012"} <= set(m.latest)
        assert m.latest["effective lr/2"] == pytest.approx(0.5)


def test_a_step_that_the_scaler_skipped_is_not_counted() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = thalweg.SGD([p], lr=0.1)
    monitor = Monitor(optimizer, every=1)
    scaler = torch.amp.GradScaler("cpu")
    for value in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert monitor.steps == 1
    monitor.remove()
    optimizer.step()
    assert monitor.steps == 1


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", ["torch fused", "skip non-finite"])
def test_a_step_that_is_left_out_within_a_kernel_is_not_counted(kind: str, every: int) -> None:
    p, notes = nn.Parameter(torch.ones(2)), Notes()
    scaler = torch.amp.GradScaler("cpu", enabled=kind != "skip non-finite")
    if kind == "torch fused":
        optimizer = torch.optim.SGD([p], lr=0.1, fused=True)
    else:
        optimizer = thalweg.SGD([p], lr=0.1, options=[thalweg.options.SkipNonFinite()])
    monitor = Monitor(optimizer, every=every, writers=[notes])
    for value in (math.inf, 1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert monitor.steps == 3
    assert sorted(notes.of) == ([1, 2, 3] if every == 1 else [1, 3])
    assert all(math.isfinite(x) for row in notes.of.values() for x in row.values())


def test_the_monitor_adds_up_sparse_gradients() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    monitor = Monitor(optimizer, every=1)
    table(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    assert monitor.latest["gradient norm/group0"] == pytest.approx(math.sqrt(2 * 4 + 2 * 1))


def test_the_monitor_bears_parameters_without_gradients_and_half_precision() -> None:
    p = nn.Parameter(torch.full((4096,), 2000.0, dtype=torch.float16))
    q = nn.Parameter(torch.ones(3))
    optimizer = thalweg.SGD([p, q], lr=1.0)
    monitor = Monitor(optimizer, every=1)
    optimizer.step()
    assert monitor.latest == {"x/lr0": 1.0}
    p.grad = torch.full_like(p, 200.0)
    optimizer.step()
    assert monitor.latest["gradient norm/group0"] == pytest.approx(12800.0)
    assert monitor.latest["update/weight/group0"] == pytest.approx(0.1)


def test_numbers_are_read_back_from_csv_and_go_on_after_a_resume(tmp_path) -> None:
    path = tmp_path / "run" / "numbers.csv"
    CSVWriter(path).write({"x/lr0": 0.1, "loss": 1 / 3}, 1)
    CSVWriter(path).write({"x/lr0": 0.05}, 2)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["step"]), r["name"], float(r["value"])) for r in rows] == [
        *((1, "x/lr0", 0.1), (1, "loss", 1 / 3), (2, "x/lr0", 0.05))
    ]


def test_a_line_that_a_crash_left_unfinished_is_not_joined(tmp_path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("step,name,value\n1,x,0.")
    CSVWriter(path).write({"y": 1.0}, 2)
    CSVWriter(path).write({"y": 2.0}, 3)
    assert path.read_text() == "step,name,value\n1,x,0.\n2,y,1.0\n3,y,2.0\n"


def test_numbers_are_read_back_from_tensorboard(tmp_path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoardWriter(tmp_path)
    optimizer = torch.optim.SGD([{"params": [torch.ones(1)]}, {"params": [torch.ones(1)]}], lr=0.25)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for epoch in range(3):
        optimizer.step()
        writer.write(learning_rates(optimizer), epoch)
        scheduler.step()
    writer.close()
    assert any("tfevents" in name for name in os.listdir(tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["x/lr0", "x/lr1"]
    assert [(e.step, e.value) for e in events.Scalars("x/lr1")] == [
        (0, 0.25),
        (1, 0.125),
        (2, 0.0625),
    ]


# The optimizer's summary --------------------------------------------------------------------------


def test_the_summary_tells_defaults_groups_and_state_with_bytes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    groups = thalweg.groups.yolo(model, 5e-4)
    optimizer = thalweg.AdamW(groups, lr=0.01)
    assert "state: none before the first step" in optimizer.summary()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    lines = optimizer.summary().splitlines()
    assert lines[0] == "AdamW"
    assert lines[1].startswith(
        "defaults: lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01"
    )
    assert lines[3].startswith("group 1: 1 tensors, 216 elements; param_group=weight, ")
    assert "weight_decay=0.0005" in lines[3]
    assert lines[5:] == [
        "state 'step': 3 tensors of float32, 12 bytes",
        f"state 'exp_avg': 3 tensors of float32, {4 * 232} bytes",
        f"state 'exp_avg_sq': 3 tensors of float32, {4 * 232} bytes",
        f"state in all: {8 * 232 + 12:,} bytes, 8.05 per parameter element",
    ]


def test_the_summary_counts_tensors_in_lists() -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = thalweg.LBFGS([p], max_iter=3, lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    history = len(optimizer.state[p]["old_dirs"])
    assert history > 0
    assert f"state 'old_dirs': {history} tensors of float32, {20 * history} bytes" in (
        optimizer.summary()
    )
    assert "state 'func_evals': 1 values, such as " in optimizer.summary()


def test_a_wrapper_summarizes_whatever_it_wraps() -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = thalweg.Lookahead(torch.optim.SGD([p], lr=0.1, momentum=0.9))
    p.grad = torch.ones(5)
    optimizer.step()
    assert "lookahead_k=6" in optimizer.summary()
    assert "state 'lookahead_slow': 1 tensors of float32, 20 bytes" in optimizer.summary()
