"""The recipe against a loop that knows nothing of it; exact resume; what it refuses."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
import yolov5_reference as reference
from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError, StepError
from thalweg.recipe import Accumulate, ModelAverage, Recipe, finetune, transformer, yolov5
from thalweg.recipe.hyperparameters import DEFAULTS, given
from thalweg.schedules import Scheduler

EPOCHS, BATCHES, SIZE = 8, 25, 16  # 200 batches; the warm-up is the first 100
HYP = {"lr0": 0.02, "warmup_epochs": 3.0, "weight_decay": 0.01}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.Conv2d(4, 4, 3, bias=False),
            nn.BatchNorm2d(4),
        ),
        *(nn.SiLU(), nn.Flatten(), nn.Linear(4 * 16, 3)),
    )


def loss_of(model: nn.Module, i: int) -> torch.Tensor:
    """Cross entropy of batch i, as a sum over its images as YOLOv5 has it."""
    made = torch.Generator().manual_seed(i)
    images = torch.randn(SIZE, 1, 8, 8, generator=made)
    labels = (images.mean((1, 2, 3)) * 8).sign().long() + 1
    return nn.functional.cross_entropy(model(images), labels, reduction="sum")


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=7)


def run(recipe: Recipe, batches: int, note=None, overflow: int = -1) -> list[bool]:
    found = []
    for i in range(recipe.batch, recipe.batch + batches):
        with recipe.forward():
            loss = loss_of(recipe.model, i)
        found.append(recipe.step(loss * (math.inf if i == overflow else 1.0)))
        if note:
            note(i)
    return found


# Against the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_the_recipe_is_yolov5s_loop(adam: bool, linear: bool) -> None:
    torch.set_default_dtype(torch.float64)  # so that 1e-6 after 200 steps is about the recipe
    try:
        hyp = {**DEFAULTS, **HYP}
        ours, theirs = network(), network()
        seen: dict[int, tuple] = {}

        def note(i: int, optimizer, model: nn.Module, averaged: nn.Module) -> None:
            numbers = [(g["lr"], g.get("momentum")) for g in optimizer.param_groups]
            seen[i] = (
                numbers,
                copy.deepcopy(model.state_dict()),
                copy.deepcopy(averaged.state_dict()),
            )

        reference.train(
            theirs,
            lambda i: loss_of(theirs, i),
            adam=adam,
            linear=linear,
            batch_size=SIZE,
            epochs=EPOCHS,
            batches=BATCHES,
            hyp=hyp,
            overflow=120,
            scaler=scaler(),
            note=note,
        )
        recipe = yolov5(
            ours,
            SIZE,
            EPOCHS,
            HYP,
            batches=BATCHES,
            optimizer="Adam" if adam else "SGD",
            schedule="linear" if linear else "cosine",
            scaler=scaler(),
            verbose=False,
        )

        def compare(i: int) -> None:
            numbers, weights, averages = seen[i]
            groups = recipe.optimizer.param_groups
            found = [(g["lr"], g.get("momentum")) for g in groups]
            assert [lr for lr, _ in found] == pytest.approx([lr for lr, _ in numbers], rel=1e-12)
            if not adam:
                assert [m for _, m in found] == pytest.approx([m for _, m in numbers], rel=1e-12)
            torch.testing.assert_close(ours.state_dict(), weights, rtol=1e-6, atol=1e-9)
            kept = recipe.average.state_dict()["average"]
            for name, x in averages.items():
                if x.is_floating_point():
                    torch.testing.assert_close(kept[name], x, rtol=1e-6, atol=1e-9)

        stepped = run(recipe, EPOCHS * BATCHES, compare, overflow=120)
        assert recipe.skipped == 1
        assert recipe.steps == sum(stepped) == recipe.average.updates
        assert stepped[:3] == [True, True, True]
        assert sum(stepped[100:]) in (24, 25)  # four batches a step, one left out
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_reference_imports_torch_alone() -> None:
    text = Path(reference.__file__).read_text()
    imports = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line[:4] in ("impo", "from")
    }
    assert imports <= {"__future__", "copy", "math", "collections", "torch"}


# Resuming -----------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Dropout, so that torch's random state counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = network(), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.drop(x))


def small(optimizer: str = "SGD", **arguments) -> Recipe:
    hyp = {"lr0": 0.001 if optimizer == "Adam" else 0.01, "warmup_epochs": 1.0}
    return yolov5(
        *(Dropping(), SIZE, 4, hyp),
        batches=10,
        min_warmup=10,
        optimizer=optimizer,
        scaler=scaler(),
        **({"verbose": False} | arguments),
    )


def same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), where
        assert a.dtype is b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict), where
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where  # type: ignore[arg-type]
        for i, (x, y) in enumerate(zip(a, b, strict=True)):  # type: ignore[call-overload]
            same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Lion + lookahead(k=3)"])
@pytest.mark.parametrize("cuts", [(3, 17), (14, 16), (25, 26)])
def test_it_resumes_to_the_bit_also_within_a_step(tmp_path, optimizer: str, cuts) -> None:
    torch.manual_seed(7)
    whole = small(optimizer)
    torch.manual_seed(8)
    run(whole, 40, overflow=21)
    broken = small(optimizer)
    torch.manual_seed(8)
    pending = []
    for cut in (*cuts, 40):
        run(broken, cut - broken.batch, overflow=21)
        broken.save(tmp_path / "last.pt")
        pending.append(broken.accumulate.pending)
        torch.manual_seed(99)
        broken = small(optimizer)
        broken.load(tmp_path / "last.pt")
    assert any(pending)
    same(whole.state_dict(), broken.state_dict())
    assert broken.steps + broken.skipped > 10
    assert broken.skipped == 1


def test_the_files_tensors_are_not_the_recipes() -> None:
    recipe = small()
    run(recipe, 12)
    state = recipe.state_dict()
    other = small()
    other.load_state_dict(state)
    before = copy.deepcopy(recipe.state_dict())
    run(other, 8)
    now = recipe.state_dict()
    for part in ("model", "optimizer", "average", "gradients", "scaler"):
        same(before[part], now[part], part)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "run" / "last.pt"
    recipe = small()
    recipe.save(path)
    old = path.read_bytes()
    run(recipe, 3)

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        recipe.save(path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["last.pt"]


def test_another_recipe_is_refused_and_every_difference_is_named() -> None:
    recipe = small()
    run(recipe, 5)
    state = copy.deepcopy(recipe.state_dict())
    other = small(clip=5.0, ema=False)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=r"clip: 10.0 there, 5.0 here; .*average: one there"):
        other.load_state_dict(state)
    same(before, other.state_dict())
    with pytest.raises(CheckpointError, match="optimizer: 'SGD' there, 'Adam' here"):
        small("Adam").load_state_dict(state)
    other_schedule = small(schedule="linear")
    before = copy.deepcopy(other_schedule.state_dict())
    with pytest.raises(CheckpointError, match=r"schedule of 'lr': .*one_cycle.* there, "):
        other_schedule.load_state_dict(state)
    same(before, other_schedule.state_dict())
    with pytest.raises(CheckpointError, match="lacks recipe, counts"):
        small().load_state_dict(state["model"])
    other.load_state_dict(state, strict=False)
    assert other.batch == 5


def test_another_recipe_goes_on_if_it_is_meant() -> None:
    recipe = small(ema=False)
    run(recipe, 7)
    state = copy.deepcopy(recipe.state_dict())
    other = small(nominal=32, schedule="linear", clip=None)
    other.load_state_dict(state, strict=False)
    assert (other.batch, other.steps, other.average.updates) == (7, recipe.steps, 0)
    for name, x in other.average.state_dict()["average"].items():
        assert torch.equal(x, recipe.model.state_dict()[name]), name
    run(other, 8)
    assert other.average.updates == other.steps - recipe.steps


def test_an_average_of_another_kind_is_refused_before_anything_changes() -> None:
    recipe = small()
    run(recipe, 7)
    fresh = small(ema=False)
    fresh.average = ModelAverage(fresh.model, "swa")
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(CheckpointError, match="the checkpoint's average is 'ema'"):
        fresh.load_state_dict(copy.deepcopy(recipe.state_dict()), strict=False)
    same(before, fresh.state_dict())


def test_gradients_that_processes_have_not_exchanged_are_not_saved(tmp_path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(network())
        optimizer = thalweg.SGD(model.parameters(), lr=0.1)
        recipe = Recipe(model, optimizer, accumulate=Accumulate(16, 32))
        run(recipe, 1)
        with pytest.raises(StepError, match="processes have not exchanged"):
            recipe.state_dict()
        run(recipe, 1)
        plain = network()
        again = Recipe(
            plain, thalweg.SGD(plain.parameters(), lr=0.1), accumulate=Accumulate(16, 32)
        )
        again.load_state_dict(recipe.state_dict())
        same(plain.state_dict(), model.module.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_another_models_checkpoint_is_refused_and_nothing_changed() -> None:
    recipe = small()
    run(recipe, 5)
    state = copy.deepcopy(recipe.state_dict())
    state["model"]["body.7.weight"] = torch.ones(5, 5)
    other = small()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        CheckpointError, match=r"'body.7.weight' has shape \(5, 5\), here \(3, 64\)"
    ):
        other.load_state_dict(state)
    same(before, other.state_dict())


# One step -----------------------------------------------------------------------------------------


def test_a_schedule_of_steps_resumes_behind_a_skipped_step() -> None:
    def made() -> Recipe:
        model = network()
        optimizer = thalweg.SGD(model.parameters(), lr=0.1)
        return Recipe(model, optimizer, Scheduler(optimizer, "linear(10)"), scaler=scaler())

    whole, broken, again = made(), made(), made()
    run(whole, 5, overflow=2)
    run(broken, 3, overflow=2)
    again.load_state_dict(copy.deepcopy(broken.state_dict()))
    run(again, 2)
    same(whole.state_dict(), again.state_dict())


def test_a_skipped_step_moves_neither_average_nor_schedule_of_steps() -> None:
    model = network()
    optimizer = thalweg.AdamW(model.parameters(), lr=0.1)
    recipe = Recipe(
        model,
        optimizer,
        Scheduler(optimizer, "linear(10)"),
        average=ModelAverage(model),
        scaler=scaler(),
    )
    found = run(recipe, 4, overflow=1)
    assert found == [True, False, True, True]
    assert (recipe.steps, recipe.skipped, recipe.average.updates) == (3, 1, 3)
    assert recipe.learning_rates() == {"x/lr0": pytest.approx(0.08)}


def test_skip_non_finite_counts_as_a_skipped_step() -> None:
    model = network()
    options = [thalweg.options.SkipNonFinite()]
    optimizer = thalweg.AdamW(model.parameters(), lr=0.1, options=options)
    recipe = Recipe(model, optimizer, average=ModelAverage(model))
    assert run(recipe, 3, overflow=1) == [True, False, True]
    assert (recipe.steps, recipe.skipped, recipe.average.updates) == (2, 1, 2)


def test_gradients_are_clipped_after_they_are_unscaled() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = thalweg.SGD(model.parameters(), lr=1.0)
    recipe = Recipe(model, optimizer, clip=0.5, scaler=scaler())
    before = model.weight.detach().clone()
    recipe.step(model(torch.tensor([[3.0, 4.0]])).sum())
    assert float(recipe.gradient_norm) == pytest.approx(5.0)
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.3, 0.4]]))
    assert model.weight.grad is None


def test_mean_accumulation_is_one_big_batch() -> None:
    steps = []
    for parts in (1, 4):
        model = nn.Linear(3, 1, bias=False)
        nn.init.constant_(model.weight, 0.5)
        optimizer = thalweg.SGD(model.parameters(), lr=0.1)
        accumulate = Accumulate(8 // parts, 8, reduction="mean")
        recipe = Recipe(model, optimizer, accumulate=accumulate)
        data = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
        for part in data.chunk(parts):
            recipe.step(model(part).square().mean())
        assert recipe.steps == 1
        steps.append(model.weight.detach().clone())
    torch.testing.assert_close(*steps)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(precision: str) -> None:
    model = nn.Linear(8, 8)
    recipe = Recipe(model, thalweg.SGD(model.parameters(), lr=0.1), precision=precision)
    with recipe.forward():
        out = model(torch.ones(2, 8))
    assert out.dtype is {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert recipe.step(out.float().square().mean())
    assert (recipe.precision.scaler is not None) == (precision == "fp16")


def test_torchs_optimizers_and_schedulers_work_too() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 10)
    recipe = Recipe(model, optimizer, scheduler, scaler=scaler(), clip=1.0)
    assert run(recipe, 4, overflow=2) == [True, True, False, True]
    assert recipe.learning_rates()["x/lr0"] == pytest.approx(0.08)


def test_no_warning_of_torchs_about_the_order(recwarn) -> None:
    recipe = yolov5(
        *(network(), SIZE, 2, {"warmup_epochs": 0}), batches=8, scaler=scaler(), verbose=False
    )
    run(recipe, 16, overflow=3)
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


# What is refused ----------------------------------------------------------------------------------


def test_nothing_steps_or_is_saved_while_the_model_holds_its_average() -> None:
    recipe = small()
    run(recipe, 2)
    with recipe.average.averaged():
        for what in (lambda: recipe.step(loss_of(recipe.model, 0)), recipe.state_dict):
            with pytest.raises(StepError, match="leave averaged"):
                what()
    assert recipe.batch == 2


def test_more_batches_than_it_was_made_for_are_refused() -> None:
    recipe = yolov5(
        *(network(), SIZE, 2, {"warmup_epochs": 0}), batches=2, scaler=scaler(), verbose=False
    )
    run(recipe, 4)
    with pytest.raises(StepError, match="yolov5 was made for 4 batches"):
        run(recipe, 1)


@pytest.mark.parametrize(
    ("hyp", "match"),
    [
        ({"lr_0": 0.1}, "'lr_0'.* Did you mean 'lr0'"),
        ({"warmup_epoch": 1}, "Did you mean 'warmup_epochs'"),
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        ({"lr0": 0.0}, "lr0 is 0.0; it must be > 0"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"warmup_epochs": 8.0}, r"warm-up takes .* = 160 batches, and training has 60"),
    ],
)
def test_bad_hyperparameters(hyp: dict, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        yolov5(network(), 16, 3, hyp, batches=20)


def test_other_bad_arguments() -> None:
    model = network()
    optimizer = thalweg.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ArgumentTypeError, match=r"lr0 is '0\.1'"):
        given({"lr0": "0.1"})
    with pytest.raises(ArgumentError, match="Did you mean 'lion'"):
        yolov5(model, 16, 3, {"warmup_epochs": 0}, batches=20, optimizer="Loin")
    with pytest.raises(ArgumentError, match="batches=0"):
        yolov5(model, 16, 3, batches=0)
    with pytest.raises(ArgumentError, match="unknown schedule 'step'"):
        yolov5(model, 16, 3, batches=100, schedule="step")
    with pytest.raises(ArgumentError, match="average is of another model"):
        Recipe(model, optimizer, average=ModelAverage(network()))
    with pytest.raises(ArgumentError, match="another optimizer"):
        Recipe(model, thalweg.SGD(model.parameters()), Scheduler(optimizer, "cosine(9)"))
    with pytest.raises(ArgumentError, match="Invalid clip: 0"):
        Recipe(model, optimizer, clip=0.0)
    with pytest.raises(ArgumentError, match="unknown precision 'half'"):
        Recipe(model, optimizer, precision="half")
    with pytest.raises(ArgumentError, match="unknown clock 'epoch'"):
        Recipe(model, optimizer, clock="epoch")
    with pytest.raises(ArgumentError, match="ReduceLROnPlateau"):
        Recipe(model, optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))


# Hyper-parameters ---------------------------------------------------------------------------------


def test_hyperparameters_are_read_from_yolov5s_files(tmp_path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text(
        "# Hyperparameters\n---\nlr0: 1E-2  # initial learning rate\n'lrf': 0.2\nwarmup_epochs: 2\n"
        "box: 0.05\nanchors: [1, 2]\n\nmosaic: 1.0\n"
    )
    assert given(path) == {"lr0": 0.01, "lrf": 0.2, "warmup_epochs": 2.0}
    recipe = yolov5(network(), 16, 10, path, batches=100, verbose=False)
    assert recipe.accumulate.warmup == 200
    path.write_text("lr0: fast\n")
    with pytest.raises(ArgumentError, match="line 1: 'lr0: fast' does not read"):
        given(path)
    with pytest.raises(FileNotFoundError):
        given(tmp_path / "none.yaml")


def test_the_decay_of_a_group_is_scaled_and_the_others_have_none() -> None:
    recipe = yolov5(network(), 24, 10, batches=100, verbose=False)
    decays = {g["param_group"]: g["weight_decay"] for g in recipe.optimizer.param_groups}
    assert decays == {"bias": 0.0, "weight": 0.0005 * 24 * 3 / 64, "bn": 0.0}


def test_other_optimizers_keep_their_own_numbers(capsys) -> None:
    recipe = yolov5(network(), 64, 10, batches=100, optimizer="Lion")
    recipe.step(loss_of(recipe.model, 0))
    assert {g["lr"] for g in recipe.optimizer.param_groups} == {0.0}  # biases do not begin at 0.1
    assert {g["initial_lr"] for g in recipe.optimizer.param_groups} == {1e-4}
    assert "Lion(lr=0.0001, betas=(0.9, 0.99))" in capsys.readouterr().out


# Presets of transformers --------------------------------------------------------------------------


def encoder() -> nn.Sequential:
    torch.manual_seed(4)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(*layers), nn.Flatten(), nn.Linear(40, 1))


def train_encoder(recipe: Recipe, batches: int) -> list[float]:
    data = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(3))
    losses, rates = [], []
    for _ in range(batches):
        with recipe.forward():
            loss = (recipe.model(data)[:, 0] - data.mean((1, 2))).square().mean()
        recipe.step(loss)
        rates.append(max(recipe.learning_rates().values()))
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    return rates


def test_the_transformers_recipe(capsys) -> None:
    recipe = transformer(encoder(), 40, batch_size=4, nominal=8, lr=1e-2)
    rates = train_encoder(recipe, 80)
    assert recipe.steps == 40
    expected = [0.01 * t / 4 for t in range(4)]
    expected += [0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * t / 36))) for t in range(36)]
    assert rates == pytest.approx([x for x in expected for _ in range(2)])
    assert {g["weight_decay"] for g in recipe.optimizer.param_groups} == {0.1, 0.0}
    said = capsys.readouterr().out
    assert "transformer: AdamW(lr=0.01, betas=(0.9, 0.95))" in said
    assert "warmup(4) >> cosine(36, end=0.1)" in said
    with pytest.raises(StepError, match="made for 40 steps"):
        train_encoder(recipe, 1)


@pytest.mark.parametrize("preset", [transformer, finetune])
def test_presets_take_the_mean_of_what_they_gather(preset) -> None:
    moved = []
    for nominal in (4, 12):
        arguments = {"optimizer": "sgd", "warmup": 0, "clip": None, "verbose": False}
        recipe = preset(encoder(), 10, lr=0.1, batch_size=4, nominal=nominal, **arguments)
        for _ in range(nominal // 4):
            recipe.step(recipe.model(torch.ones(4, 5, 4)).square().mean())
        assert recipe.steps == 1
        moved.append(recipe.model[0].weight.detach())
    torch.testing.assert_close(*moved)


def test_fine_tuning_moves_early_layers_less(capsys) -> None:
    recipe = finetune(
        encoder(), 20, lr=1e-2, layer_decay=0.5, layers="1", optimizer="adamw + cautious"
    )
    rates = train_encoder(recipe, 20)
    assert rates[2] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.01 / 18)
    bases = sorted({g["initial_lr"] for g in recipe.optimizer.param_groups})
    assert bases == pytest.approx([0.01 * 0.5**k for k in (4, 3, 2, 1, 0)])
    assert "+ cautious" in capsys.readouterr().out


def test_presets_leave_other_optimizers_their_numbers_and_frozen_parameters_out() -> None:
    model = encoder()
    model[0].requires_grad_(requires_grad=False)
    for preset in (transformer, finetune):
        recipe = preset(model, 10, optimizer="Lion", verbose=False)
        assert {g["initial_lr"] for g in recipe.optimizer.param_groups} == {1e-4}
        held = {id(p) for g in recipe.optimizer.param_groups for p in g["params"]}
        assert held == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("preset", [transformer, finetune])
def test_bad_arguments_of_the_presets(preset) -> None:
    with pytest.raises(ArgumentError, match=r"warmup=10; it must be in \[0, 10\)"):
        preset(encoder(), 10, warmup=10)
    with pytest.raises(ArgumentError, match="steps=0"):
        preset(encoder(), 0)
    with pytest.raises(ArgumentError, match="Did you mean 'lion'"):
        preset(encoder(), 10, optimizer="loin")
    with pytest.raises(ArgumentError, match="needs an lr for the last layer"):
        finetune(encoder(), 10, optimizer="lion", layer_decay=0.5)
