"""What is said in an optimizer's text, in hyper-parameters and in arguments: used once, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thalweg
from thalweg.errors import ArgumentError, ArgumentTypeError
from thalweg.recipe import Accumulate, Recipe, finetune, transformer, yolov5
from thalweg.recipe.hyperparameters import given
from thalweg.schedules import Scheduler


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def decays(recipe: Recipe) -> list[float]:
    return [g["weight_decay"] for g in recipe.optimizer.param_groups]


def rates(recipe: Recipe) -> list[float]:
    return [g["initial_lr"] for g in recipe.optimizer.param_groups]


def yolo(optimizer: str = "SGD", hyp: object = None, **more: object) -> Recipe:
    return yolov5(convolutions(), 64, 300, hyp, batches=10, optimizer=optimizer, **more)


# The optimizer's text -----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [transformer, finetune])
def test_numbers_in_the_text_are_used_and_printed(preset, capsys) -> None:
    recipe = preset(network(), 100, optimizer="adamw(lr=0.5, weight_decay=0.3)")
    assert decays(recipe) == [0.3, 0.0]
    assert rates(recipe) == [0.5, 0.5]
    assert "decay(weight_decay=0.3)" in capsys.readouterr().out
    assert decays(preset(network(), 100, optimizer="lion(weight_decay=0.3)", verbose=False)) == [
        *(0.3, 0.0)
    ]
    same = {"optimizer": "adamw(lr=0.5)", "lr": 0.5, "verbose": False}
    assert rates(preset(network(), 100, **same)) == [0.5, 0.5]
    betas = preset(network(), 100, optimizer="adamw(betas=(0.5, 0.6))", verbose=False)
    assert betas.optimizer.param_groups[0]["betas"] == (0.5, 0.6)


@pytest.mark.parametrize("preset", [transformer, finetune])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_number_said_twice_is_refused_where_it_differs(preset, name) -> None:
    with pytest.raises(
        ArgumentError, match=f"{name}=0.1 was passed, and 'adamw.* says {name} is 0.3"
    ):
        preset(network(), 100, optimizer=f"adamw({name}=0.3)", **{name: 0.1})


def test_layers_follow_the_lr_of_the_text() -> None:
    for text in ("adamw(lr=0.5)", "lion(lr=0.5)"):
        recipe = finetune(network(), 100, optimizer=text, layer_decay=0.5, layers="", verbose=False)
        assert max(rates(recipe)) == 0.5  # the last layer is the output


def test_yolov5_uses_the_numbers_of_the_text(capsys) -> None:
    assert sorted(decays(yolo("adamw(weight_decay=0.3)"))) == [0.0, 0.0, 0.3]
    assert "weight_decay 0.3: 0.3 for 64 examples" in capsys.readouterr().out
    recipe = yolo("sgd(lr=0.5, momentum=0.1)")
    assert set(rates(recipe)) == {0.5}
    assert recipe.optimizer.defaults["momentum"] == 0.1
    assert "SGD(lr=0.5, momentum=0.1, nesterov=True)" in capsys.readouterr().out
    with pytest.raises(
        ArgumentError, match=r"lr0=0.2 was passed, and 'lion\(lr=0.5\)' says lr is 0.5"
    ):
        yolo("lion(lr=0.5)", {"lr0": 0.2})
    with pytest.raises(ArgumentError, match=r"momentum=0.7 was passed"):
        yolo("adam(betas=(0.5, 0.9))", {"momentum": 0.7})


def test_a_number_in_the_text_that_reaches_no_group_is_refused() -> None:
    groups = thalweg.groups.no_decay(network(), 0.1)
    with pytest.raises(ArgumentError, match=r"weight_decay=0.3 in .* reaches no group.* 0.1, 0.0"):
        thalweg.create_optimizer(groups, "adamw(weight_decay=0.3)")
    groups = thalweg.groups.no_decay(network())
    found = thalweg.create_optimizer(groups, "adamw(weight_decay=0.3)")
    assert [g["weight_decay"] for g in found.param_groups] == [0.3, 0.0]


def test_momentum_of_hyp_is_the_first_of_betas(capsys) -> None:
    recipe = yolo("lion", {"momentum": 0.5, "warmup_momentum": 0.3})
    assert {g["betas"] for g in recipe.optimizer.param_groups} == {(0.5, 0.99)}
    assert "momentum: betas[0], which does not warm up" in capsys.readouterr().out
    recipe = yolo("rmsprop", {"momentum": 0.5, "warmup_momentum": 0.25})
    assert {g["momentum"] for g in recipe.optimizer.param_groups} == {0.25}
    yolo("adafactor", {"momentum": 0.5})
    assert "momentum: not used, Adafactor has no momentum" in capsys.readouterr().out


def test_with_groups_of_ones_own_their_decay_is_printed(capsys) -> None:
    model = convolutions()
    groups = [{"params": model.parameters(), "weight_decay": 0.25}]
    yolov5(model, 64, 300, {"weight_decay": 0.1}, batches=10, groups=groups)
    said = capsys.readouterr().out
    assert "weight_decay 0.25, as the groups and the optimizer have it: hyp's is not used" in said


# Optimizers that average -----------------------------------------------------------------------------


def test_a_schedule_free_optimizer_keeps_its_lr_and_gets_no_ema(capsys) -> None:
    recipe = transformer(network(), 100, optimizer="AdamWScheduleFree")
    assert str(recipe.scheduler.schedules["lr"]) == "warmup(10) >> constant()"
    assert "lr: warmup(10) >> constant(), since it is schedule-free" in capsys.readouterr().out
    recipe = yolo("AdamWScheduleFree")
    assert recipe.average is None
    assert {s(2999) for s in recipe.scheduler.schedules["lr"]} == {1.0}
    said = capsys.readouterr().out
    assert "which does not come down as it is schedule-free" in said
    assert "average: the optimizer's own" in said
    assert yolo("sgd + average(0.9)", verbose=False).average is None
    assert yolo("sgd", verbose=False).average is not None


# Hyper-parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hyp", "said"),
    [
        ({"learning_rate": 0.1}, "Here that is 'lr0'"),
        ({"lr": 0.5}, "Here that is 'lr0'"),
        ({"beta1": 0.9}, "Here that is 'momentum'"),
        ({"optimizer": "Adam"}, "Here that is the argument optimizer="),
        ({"nbs": 16}, "Here that is the argument nominal="),
        ({"wurmup": 3}, "hyp has 'wurmup', which YOLOv5's hyper-parameters do not"),
        ({"lr0": 10**400}, "lr0 is inf; it must be > 0 and finite"),
    ],
)
def test_a_name_that_yolov5_does_not_publish_is_refused(hyp, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        given(hyp)


def test_what_is_neither_a_dict_nor_a_path() -> None:
    with pytest.raises(ArgumentTypeError, match="hyp is 5; it must be a dict"):
        given(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{lr0: 0.2, momentum: 0.5}\n", r"line 1: '\{lr0: 0.2, momentum: 0.5\}' does not read"),
        ('{"lr0": 0.2,\n"momentum": 0.5}\n', "line 1: "),
        ("lr0: 0.2\nlr0: 0.3\n", "line 2: 'lr0' stands there already"),
        ("box: 0.2\nbox: 0.3\n", "line 2: 'box' stands there already"),
        ("path: ../x\nnames:\n  0: a\n", "line 1 has 'path'"),
        ("train:\n  lr0: 0.2\n", "line 1 has 'train'"),
        ("- lr0: 0.4\n", "line 1: '- lr0: 0.4' does not read"),
        ("", "has none of lr0, "),
        ("# lr0: 3\nmosaic: 1.0\n", "has none of lr0, "),
    ],
)
def test_a_file_that_is_none_of_yolov5s_is_refused(tmp_path, text, said) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=said):
        given(path)


def test_all_of_yolov5s_published_names_are_taken() -> None:
    published = (
        "box cls cls_pw obj obj_pw iou_t anchor_t anchors fl_gamma hsv_h hsv_s hsv_v degrees"
    )
    published += " translate scale shear perspective flipud fliplr mosaic mixup copy_paste"
    assert given({"lr0": 0.2, **dict.fromkeys(published.split(), 0.5)}) == {"lr0": 0.2}


# What is refused ------------------------------------------------------------------------------------


REFUSED = {
    "length": (lambda m, o: Recipe(m, o, length=-5), "Recipe got length=-5; .* >= 1"),
    "a schedule that is shorter": (
        lambda m, o: Recipe(m, o, Scheduler(o, "cosine(10)"), length=100),
        r"cosine\(10\) ends at step 10, and training has 100",
    ),
    "a warm-up that is longer": (
        lambda m, o: Recipe(m, o, Scheduler(o, "warmup(500)"), length=100),
        "takes 500 steps, and training has 100",
    ),
    "another model": (lambda m, o: Recipe(network(), o), "none of the model's parameters"),
    "LBFGS": (
        lambda m, o: Recipe(m, thalweg.LBFGS(m.parameters())),
        "LBFGS.step needs a closure",
    ),
    "SAM": (lambda m, o: Recipe(m, thalweg.SAM(o)), r"SAM.step needs a closure"),
    "LBFGS by name": (lambda m, o: yolo("lbfgs"), "yolov5 cannot train with 'lbfgs'"),
    "a negative end": (
        lambda m, o: transformer(m, 100, end=-1.0),
        r"lr of group 0 \('decay'\) is -.* at step .*; it must be finite and at least 0",
    ),
    "half an epoch": (lambda m, o: yolov5(m, 16, 300.5, batches=10), "yolov5 got epochs=300.5"),
    "an infinite batch": (lambda m, o: Accumulate(16, float("inf")), "nominal=inf"),
    "no number of images": (lambda m, o: Accumulate(float("nan")), "batch_size=nan"),
    "no norms": (lambda m, o: yolov5(nn.Linear(2, 2), 16, 300, batches=10), "yolov5.*groups="),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input(make, said) -> None:
    model = network()
    with pytest.raises(ArgumentError, match=said):
        make(model, thalweg.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Accumulate("x"),
        lambda: Accumulate(None),
        lambda: yolov5(convolutions(), 16, "3", batches=10),
        lambda: transformer(network(), "100"),
        lambda: transformer(network(), 100, warmup="5"),
        lambda: transformer(network(), 100, verbose=False).step(1.0),
    ],
)
def test_what_is_no_number(make) -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be a number|loss as a tensor"):
        make()
