"""Resuming: another recipe is told by all its numbers, and a checkpoint is taken whole or not at all."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torchs

import thalweg
from test_recipe import same
from thalweg.errors import CheckpointError, StepError
from thalweg.recipe import Accumulate, ModelAverage, Recipe, transformer
from thalweg.schedules import Scheduler


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def recipe_of(make_scheduler=lambda o: None, *, cls: type = torch.optim.SGD, **numbers) -> Recipe:
    model = network()
    optimizer = cls(model.parameters(), **({"lr": 0.1} | numbers))
    return Recipe(model, optimizer, make_scheduler(optimizer))


def run(recipe: Recipe, batches: int) -> None:
    for i in range(batches):
        recipe.step(recipe.model(torch.full((2, 3), i + 1.0)).square().mean())


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"lr": 1e-3}, {"lr": 1e-5}, "groups.lr: 0.001 there, 1e-05 here"),
        ({"weight_decay": 0.1}, {}, "groups.weight_decay: 0.1 there, 0"),
        ({"momentum": 0.9}, {"momentum": 0.5}, "groups.momentum: 0.9 there, 0.5 here"),
    ],
)
@pytest.mark.parametrize("cls", [torch.optim.SGD, thalweg.SGD])
def test_other_numbers_are_another_recipe(there, here, said, cls) -> None:
    state = recipe_of(cls=cls, **there).state_dict()
    other = recipe_of(cls=cls, **here)
    with pytest.raises(CheckpointError, match=said):
        other.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    recipe_of(cls=cls, **there).load_state_dict(state)


def test_the_numbers_of_a_schedule_are_its_bases() -> None:
    def made(lr: float) -> Recipe:
        return transformer(network(), 100, lr=lr, verbose=False)

    first = made(1e-3)
    run(first, 20)
    made(1e-3).load_state_dict(first.state_dict())
    with pytest.raises(CheckpointError, match=r"groups.lr: 0.001 there, 1e-05 here"):
        made(1e-5).load_state_dict(first.state_dict())


@pytest.mark.parametrize("name", ["prodigy", "adamwschedulefree", "nadam", "lion + lookahead(k=2)"])
def test_counts_of_an_optimizer_that_has_stepped_are_no_settings(name) -> None:
    model, other = network(), network()
    optimizer = thalweg.create_optimizer(model, name)
    for _ in range(3):
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = Recipe(model, optimizer).state_dict()
    Recipe(other, thalweg.create_optimizer(other, name)).load_state_dict(state)
    same(model.state_dict(), other.state_dict())


def test_what_a_wrapper_was_made_with_is_compared() -> None:
    def made(**more) -> Recipe:
        model = network()
        inner = torch.optim.SGD(model.parameters(), lr=more.pop("lr", 0.1))
        return Recipe(model, thalweg.Lookahead(inner, **more))

    made(k=3).load_state_dict(made(k=3).state_dict())
    with pytest.raises(CheckpointError, match=r"groups.lr: 0.1 there, 0.2 here"):
        made(lr=0.2).load_state_dict(made().state_dict())


SCHEDULERS = {
    "constants": (
        lambda o: torchs.StepLR(o, 3),
        lambda o: torchs.StepLR(o, 30),
        "scheduler.step_size: 3 there, 30 here",
    ),
    "types": (
        lambda o: torchs.StepLR(o, 3),
        lambda o: torchs.CosineAnnealingLR(o, 30),
        "scheduler: 'StepLR' there, 'CosineAnnealingLR' here",
    ),
    "what is within": (
        lambda o: torchs.SequentialLR(o, [torchs.StepLR(o, 3), torchs.StepLR(o, 4)], [5]),
        lambda o: torchs.SequentialLR(o, [torchs.StepLR(o, 3), torchs.StepLR(o, 9)], [5]),
        "scheduler.1.step_size: 4 there, 9 here",
    ),
}


@pytest.mark.parametrize(("there", "here", "said"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_another_scheduler_of_torchs_is_another_recipe(there, here, said) -> None:
    first = recipe_of(there)
    run(first, 4)
    state = copy.deepcopy(first.state_dict())
    other = recipe_of(here)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=said):
        other.load_state_dict(state)
    same(before, other.state_dict())
    again = recipe_of(there)
    again.load_state_dict(state)
    run(first, 3)
    run(again, 3)
    assert first.learning_rates() == again.learning_rates()


def test_without_strict_a_scheduler_of_torchs_keeps_its_constants() -> None:
    first = recipe_of(SCHEDULERS["what is within"][0])
    run(first, 4)
    other = recipe_of(SCHEDULERS["what is within"][1])
    other.load_state_dict(first.state_dict(), strict=False)
    assert other.scheduler.last_epoch == first.scheduler.last_epoch == 3
    assert other.scheduler._schedulers[1].step_size == 9
    assert other.scheduler._schedulers[0].last_epoch == 3
    with pytest.raises(CheckpointError, match="scheduler is no CosineAnnealingLR"):
        recipe_of(SCHEDULERS["types"][1]).load_state_dict(
            recipe_of(SCHEDULERS["types"][0]).state_dict(), strict=False
        )


def test_functions_without_a_name_are_warned_of() -> None:
    for make in (
        lambda o: Scheduler(o, lambda t: 1.0),
        lambda o: torchs.LambdaLR(o, lambda t: 1.0),
    ):
        with pytest.warns(UserWarning, match="no name to be compared by"):
            recipe_of(make).load_state_dict(recipe_of(make).state_dict())
    named = recipe_of(lambda o: Scheduler(o, one))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named.load_state_dict(recipe_of(lambda o: Scheduler(o, one)).state_dict())


def one(step: float) -> float:
    return 1.0


def whole() -> Recipe:
    model = network()
    optimizer = thalweg.AdamW(model.parameters(), lr=0.1)
    return Recipe(
        model,
        optimizer,
        Scheduler(optimizer, "linear(100)"),
        accumulate=Accumulate(1, 2, reduction="mean"),
        average=ModelAverage(model),
        scaler=torch.amp.GradScaler("cpu", init_scale=4.0),
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s["counts"].pop("skipped"),
        lambda s: s["counts"].update(batch="three"),
        lambda s: s["accumulate"].pop("last"),
        lambda s: s["accumulate"].update(batch=None),
        lambda s: s["scheduler"].pop("bases"),
        lambda s: s["scaler"].pop("scale"),
        lambda s: s["random"].pop("cpu"),
        lambda s: s["random"].update(cpu=torch.ones(3)),
        lambda s: s["average"].pop("updates"),
        lambda s: s["gradients"].update({"0.weight": torch.ones(7)}),
        lambda s: s["gradients"].update({"nobody": torch.ones(7)}),
        lambda s: s.update(gradients=None),
        lambda s: s["optimizer"]["param_groups"].pop(),
    ],
)
def test_a_checkpoint_that_lacks_something_changes_nothing(spoil, strict) -> None:
    recipe = whole()
    run(recipe, 5)
    state = copy.deepcopy(recipe.state_dict())
    spoil(state)
    other = whole()
    run(other, 1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises((CheckpointError, ValueError)):
        other.load_state_dict(state, strict=strict)
    same(before, other.state_dict())


def test_waiting_gradients_of_a_state_dict_are_copies() -> None:
    recipe = whole()
    run(recipe, 1)
    state = recipe.state_dict()
    before = copy.deepcopy(state["gradients"])
    assert before
    recipe.accumulate.nominal = 64  # so that the next batch is added and not stepped
    run(recipe, 1)
    same(before, state["gradients"])


@pytest.mark.parametrize("change", [{"nominal": 4}, {"reduction": "sum"}, {"warmup": 3}])
def test_another_accumulation_is_another_recipe(change) -> None:
    def made(**more) -> Recipe:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        arguments = {"batch_size": 1, "nominal": 2, "reduction": "mean"} | more
        return Recipe(model, optimizer, accumulate=Accumulate(**arguments))

    (name,) = change
    with pytest.raises(
        CheckpointError, match=f"another recipe: accumulate.{name}: .* there, .* here"
    ):
        made(**change).load_state_dict(made().state_dict())


def test_nothing_is_saved_or_stepped_while_the_parameters_hold_the_optimizers_average(
    tmp_path,
) -> None:
    model = network()
    recipe = Recipe(model, thalweg.create_optimizer(model, "sgd + average(decay=0.5)", lr=0.05))
    run(recipe, 3)
    with recipe.optimizer.averaged():
        for what in (lambda: recipe.save(tmp_path / "x.pt"), lambda: run(recipe, 1)):
            with pytest.raises(
                StepError, match=r"optimizer's average: leave optimizer.averaged\(\)"
            ):
                what()
    recipe.optimizer.eval()
    with pytest.raises(StepError, match=r"optimizer.train"):
        recipe.state_dict()
    recipe.optimizer.train()
    recipe.save(tmp_path / "x.pt")


@pytest.mark.parametrize("cls", [torch.optim.SGD, thalweg.SGD])
@pytest.mark.parametrize("fused", [None, True])
def test_a_step_is_skipped_also_where_the_scale_is_zero(cls, fused) -> None:
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e-45, backoff_factor=0.25)
    optimizer = cls(model.parameters(), lr=0.1, fused=fused)
    recipe = Recipe(model, optimizer, scaler=scaler, average=ModelAverage(model))
    before = model.weight.detach().clone()
    for _ in range(3):
        assert not recipe.step(model(torch.ones(1, 2)).sum() * float("inf"))
    assert scaler.get_scale() == 0.0
    assert (recipe.steps, recipe.skipped, recipe.average.updates) == (0, 3, 0)
    assert torch.equal(model.weight, before)
