"""Groups: every parameter once and in its place, tied and frozen ones too; what is refused, and how."""

import copy
import json
import pickle
import re

import pytest
import torch
from torch import nn

import thalweg
from thalweg import groups
from thalweg.errors import ArgumentError, ArgumentTypeError
from ultralytics_offline import ultralytics


class LlamaRMSNorm(nn.Module):
    """A norm that is not torch's."""

    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))


class Scale(nn.Module):
    """A LayerScale and a temperature."""

    def __init__(self, n):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(n))
        self.temperature = nn.Parameter(torch.tensor(1.0))


class Model(nn.Module):
    """All that the rules tell apart: embedding, tied head, convolution, attention, norms, scales, frozen."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.bn = nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": nn.MultiheadAttention(4, 2),
                    "norm": LlamaRMSNorm(4),
                    "scale": Scale(4),
                }
            )
            for _ in range(3)
        )
        self.fixed = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight


BUILDERS = {
    "no_decay": lambda m, **k: groups.no_decay(m, **k),
    "yolo": lambda m, **k: groups.yolo(m, **k),
    "layer_decay": lambda m, **k: groups.layer_decay(m, 0.1, layers="blocks", **k),
    "by_pattern": lambda m, **k: groups.by_pattern(m, {"head.*": {"lr": 0.1}}, **k),
    "muon": lambda m, **k: groups.muon(m, **k),
}


def named(found, tag):
    return next(set(g["param_names"]) for g in found if g["param_group"] == tag)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_is_in_exactly_one_group_under_its_name(build, frozen):
    model = Model()
    found = build(model, frozen=frozen)
    names = dict(model.named_parameters())
    pairs = [x for g in found for x in zip(g["param_names"], g["params"], strict=True)]
    assert all(names[n] is p for n, p in pairs)
    wanted = {n for n, p in names.items() if frozen or p.requires_grad}
    assert sorted(n for n, _ in pairs) == sorted(wanted)
    assert set(found.table.left_out) == set(names) - wanted
    assert [r.parameter for r in found.table.rows] == [n for n, _ in pairs]
    if frozen:
        groups.check(found, model)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("make", [torch.optim.SGD, thalweg.SGD, thalweg.Lion])
def test_optimizers_take_the_groups_as_they_are(build, make):
    model = Model()
    found = build(model)
    optimizer = make(found, lr=0.5)
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    for group, own in zip(optimizer.param_groups, found, strict=True):
        assert all(group[key] == value for key, value in own.items() if key != "params")
        assert all(a is b for a, b in zip(group["params"], own["params"], strict=True))
        assert group["lr"] == own.get("lr", 0.5)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_muon_and_adamw_take_them_and_keep_every_name_with_its_parameter(build):
    model = Model()
    names = dict(model.named_parameters())
    optimizer = thalweg.MuonAdamW(build(model))
    pairs = [
        x for g in optimizer.param_groups for x in zip(g["param_names"], g["params"], strict=True)
    ]
    assert all(names[n] is p for n, p in pairs)
    assert len(pairs) == sum(p.requires_grad for p in model.parameters())


def test_no_decay_tells_by_module_type():
    model = Model()
    decayed = named(groups.no_decay(model), "decay")
    attention = {f"blocks.{i}.attention.{n}.weight" for i in range(3) for n in ("out_proj",)}
    attention |= {f"blocks.{i}.attention.in_proj_weight" for i in range(3)}
    assert decayed == {"embed.weight", "conv.weight"} | attention
    assert named(groups.no_decay(model, embeddings=True), "decay") == decayed - {"embed.weight"}
    assert named(groups.no_decay(model, skip=["conv.*"]), "decay") == decayed - {"conv.weight"}
    found = groups.no_decay(model, 0.25)
    assert [g["weight_decay"] for g in found] == [0.25, 0.0]
    assert "weight_decay" not in groups.no_decay(model)[0]


def test_a_norm_of_the_users_own_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(nn.Linear(2, 2), Own())
    assert "1.weight" in named(groups.no_decay(model), "decay")
    assert "1.weight" in named(groups.no_decay(model, norms=(Own,)), "no_decay")
    assert named(groups.yolo(model, norms=(Own,)), "bn") == {"1.weight"}


def test_a_parametrized_weight_belongs_to_the_module_that_has_it():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.LayerNorm(2))
    found = groups.by_pattern(model, {nn.Linear: {"lr": 1.0}})
    names = {f"0.parametrizations.weight.original{i}" for i in (0, 1)} | {"0.bias"}
    assert named(found, "Linear") == names


def test_yolo_is_tagged_and_biases_come_first():
    model = Model()
    found = groups.yolo(model, 0.0005)
    assert [g["param_group"] for g in found] == ["bias", "weight", "bn"]
    assert [g["weight_decay"] for g in found] == [0.0, 0.0005, 0.0]
    norms = {"bn.weight"} | {f"blocks.{i}.norm.weight" for i in range(3)}
    scales = {f"blocks.{i}.scale.{n}" for i in range(3) for n in ("gamma", "temperature")}
    assert named(found, "bn") == norms | scales
    assert all("bias" in n for n in named(found, "bias"))
    assert found.summary == "Optimizer groups: 9 .bias, 8 conv.weight, 10 other"
    turned = groups.yolo(model, order=("weight", "bn", "bias"))
    assert [g["param_group"] for g in turned] == ["weight", "bn", "bias"]
    assert turned.summary == found.summary


def test_yolo_keeps_the_place_of_an_empty_group():
    found = groups.yolo(nn.Linear(2, 2, bias=False), allow_empty=True)
    assert [len(g["params"]) for g in found] == [0, 1, 0]
    assert len(thalweg.SGD(found, lr=0.1).param_groups) == 3


@pytest.mark.parametrize("name", ["yolov8n", "rtdetr-l"])
def test_yolo_has_the_same_sets_as_ultralytics_itself(name, tmp_path_factory):
    package = ultralytics(tmp_path_factory.mktemp("ultralytics"))
    from ultralytics.engine.trainer import BaseTrainer

    model = (package.RTDETR if "detr" in name else package.YOLO)(f"{name}.yaml").model
    theirs = BaseTrainer.build_optimizer(
        BaseTrainer.__new__(BaseTrainer), model, "SGD", 0.01, 0.9, 0.0005, 100
    )
    ours = groups.yolo(model, 0.0005, frozen=True)
    order = ("bias", "weight", "bn")  # in 8.3 they have no tags
    tag = {
        g.get("param_group", name): g for g, name in zip(theirs.param_groups, order, strict=True)
    }
    for g in ours:
        assert set(g["params"]) == set(tag[g["param_group"]]["params"])
        assert g["weight_decay"] == tag[g["param_group"]]["weight_decay"]
    assert sum(len(g["params"]) for g in ours) == len(list(model.parameters())) > 100


def test_layer_decay_follows_its_formula():
    model = Model()
    found = groups.layer_decay(model, 0.5, 0.5, layers="blocks", weight_decay=0.1)
    lr = {n: g["lr"] for g in found for n in g["param_names"]}
    assert lr["embed.weight"] == lr["bn.bias"] == 0.5 * 0.5**4
    assert [lr[f"blocks.{i}.norm.weight"] for i in range(3)] == [0.0625, 0.125, 0.25]
    assert lr["head.bias"] == 0.5
    decay = {n: g["weight_decay"] for g in found for n in g["param_names"]}
    assert decay["blocks.0.attention.in_proj_weight"] == 0.1
    assert decay["blocks.0.attention.in_proj_bias"] == decay["blocks.0.scale.gamma"] == 0.0


def test_layer_decay_finds_the_list_or_takes_several():
    model = nn.ModuleDict(
        {
            "stem": nn.Linear(2, 2),
            "body": nn.ModuleList(nn.Linear(9, 9) for _ in range(4)),
            "head": nn.Linear(2, 2),
        }
    )
    lr = {g["param_group"]: g["lr"] for g in groups.layer_decay(model, 1.0, 0.5)}
    assert lr["layer 0"] == 0.5**5
    assert lr["layer 5"] == 1.0
    found = groups.layer_decay(model, 1.0, 0.5, layers=["stem", "body"])
    lr = {n: g["lr"] for g in found for n in g["param_names"]}
    assert lr["stem.weight"] == 0.5**5
    assert lr["body.3.weight"] == 0.5


def test_what_stands_between_two_layers_has_the_earlier_ones_depth():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "between": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    found = groups.layer_decay(model, 1.0, 0.5, layers=["a", "b"])
    lr = {n: g["lr"] for g in found for n in g["param_names"]}
    assert lr["between.weight"] == lr["a.weight"] == 0.5
    assert lr["b.weight"] == 1.0  # behind it there is nothing


def test_the_last_layer_is_the_output_unless_something_stands_behind_it_frozen_or_not():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    found = groups.layer_decay(model, 1.0, 0.5, layers="")
    lr = {n: g["lr"] for g in found for n in g["param_names"]}
    assert [lr[f"{i}.weight"] for i in range(3)] == [0.25, 0.5, 1.0]
    model[2].requires_grad_(requires_grad=False)
    found = groups.layer_decay(model, 1.0, 0.5, layers=["0", "1"])
    lr = {n: g["lr"] for g in found for n in g["param_names"]}
    assert lr == {"0.weight": 0.25, "0.bias": 0.25, "1.weight": 0.5, "1.bias": 0.5}


PATTERNS = {
    "glob": ("*.bias", lambda n: n.endswith(".bias")),
    "regex": ("re:^blocks[.][02]", lambda n: n.startswith(("blocks.0", "blocks.2"))),
    "compiled": (re.compile("conv"), lambda n: "conv" in n),
    "type": ("type:*Norm*", lambda n: "norm" in n or n.startswith("bn.")),
    "class": (nn.Conv1d, lambda n: n.startswith("conv")),
    "tied": ("head.weight", lambda n: n == "embed.weight"),
}


@pytest.mark.parametrize(("pattern", "fits"), PATTERNS.values(), ids=PATTERNS)
def test_patterns(pattern, fits):
    model = Model()
    found = groups.by_pattern(model, [(pattern, {"lr": 0.25})])
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(found[0]["param_names"]) == {n for n in trainable if fits(n)} != set()
    assert found[0]["lr"] == 0.25
    assert found[1]["param_group"] == "rest"


def test_the_first_rule_wins_and_may_name_an_update_rule():
    model = Model()
    rules = {"conv.*": {"rule": "lion", "lr": 0.01}, "*.bias": {"weight_decay": 0.0}}
    optimizer = thalweg.AdamW(groups.by_pattern(model, rules), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["conv.weight", "conv.bias"]
    assert [g["rule"] for g in optimizer.param_groups] == ["lion", "adam", "adam"]
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.1, 0.1]


def test_muon_gets_hidden_matrices_only():
    model = Model()
    found = groups.muon(model)
    hidden = named(found, "muon")
    assert "conv.weight" in hidden
    assert "embed.weight" in named(found, "adamw")  # which is the head too
    assert named(found, "adamw") == {"embed.weight"}
    assert "conv.weight" in named(groups.muon(model, convolutions=False), "adamw")
    assert named(groups.muon(model, exclude=["*.out_proj.*"]), "adamw") == {
        "embed.weight",
        *(f"blocks.{i}.attention.out_proj.weight" for i in range(3)),
    }
    untied = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    assert named(groups.muon(untied), "adamw") == {"1.weight"}
    assert named(groups.muon(untied, exclude=()), "muon") == {"0.weight", "1.weight"}


def test_the_table_prints_and_serialises():
    found = groups.yolo(Model(), 0.0005)
    text = str(found.table)
    assert re.search(r"embed.weight +7x4 +weight +in Embedding; shared with head.weight", text)
    assert re.search(r"bn.weight +4 +bn +in BatchNorm1d", text)
    assert "left out, since frozen: fixed.weight, fixed.bias" in text
    again = json.loads(json.dumps(found.table.to_dict()))
    assert again["groups"][1] == {"name": "weight", "weight_decay": 0.0005}
    assert len(again["parameters"]) == len(found.table.rows) == text.count("\n") - 1
    assert "10 parameters" in str(found)
    assert repr(found) == f"<{found.summary}>"
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert copied.table == found.table
        assert copied[0]["param_names"] == found[0]["param_names"]


REFUSED = {
    "a pattern that matches nothing": (
        lambda m: groups.by_pattern(m, {"haed.*": {}}),
        r"'haed.\*' matches no parameter",
    ),
    "a type that is not there": (
        lambda m: groups.by_pattern(m, {"type:BatchNorm2d": {}}),
        "Did you mean 'BatchNorm1d'",
    ),
    "a class that is not there": (
        lambda m: groups.by_pattern(m, {nn.LSTM: {}}),
        "LSTM matches no parameter",
    ),
    "a rule behind one that takes all": (
        lambda m: groups.by_pattern(m, {"*": {}, "conv.*": {}}),
        r"'conv.\*' gets no parameter: 'conv.weight'.* went to '\*'",
    ),
    "no regular expression": (
        lambda m: groups.by_pattern(m, {"re:(": {}}),
        "no regular expression",
    ),
    "a rule that fills the group": (
        lambda m: groups.by_pattern(m, {"*": {"params": []}}),
        "sets 'params'",
    ),
    "skipping nothing": (lambda m: groups.no_decay(m, skip=["rope.*"]), r"skip='rope.\*'"),
    "excluding nothing": (lambda m: groups.muon(m, exclude=["rope.*"]), r"exclude='rope.\*'"),
    "an unknown layer": (
        lambda m: groups.layer_decay(m, 0.1, layers="block"),
        "Did you mean 'blocks'",
    ),
    "a decay of more than one": (lambda m: groups.layer_decay(m, 0.1, 1.5), r"in \(0, 1\]"),
    "no list of layers": (lambda m: groups.layer_decay(m.head, 0.1), "say which are the layers"),
    "a negative lr": (lambda m: groups.layer_decay(m, -1.0), "Invalid learning rate: -1.0"),
    "a negative decay": (lambda m: groups.yolo(m, -1.0), "Invalid weight_decay value: -1.0"),
    "a wrong order": (lambda m: groups.yolo(m, order=("bias",)), "order="),
    "no norms": (lambda m: groups.yolo(m.head), r"'bn' matches no parameter; name the type"),
    "no vectors": (lambda m: groups.no_decay(m.embed), "no norms and no biases"),
    "no matrices": (lambda m: groups.muon(m.bn), "no hidden matrix"),
    "all frozen": (lambda m: groups.no_decay(m.fixed), "none requires a gradient"),
    "no parameters": (lambda m: groups.no_decay(nn.ReLU()), "has no parameters"),
}


@pytest.mark.parametrize(("call", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input(call, said):
    with pytest.raises(ArgumentError, match=said):
        call(Model())


WRONG = {
    "parameters": lambda m: groups.yolo(list(m.parameters())),
    "a pattern of another kind": lambda m: groups.by_pattern(m, {3: {}}),
    "no pairs": lambda m: groups.by_pattern(m, ["*.bias"]),
    "a text": lambda m: groups.by_pattern(m, "*.bias"),
    "no numbers": lambda m: groups.by_pattern(m, {"*": 0.1}),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_is_of_another_kind(call):
    with pytest.raises(ArgumentTypeError):
        call(Model())


def test_what_matches_nothing_is_left_out_if_asked():
    found = groups.by_pattern(Model(), {"rope.*": {}, "conv.*": {}}, allow_empty=True)
    assert [g["param_group"] for g in found] == ["conv.*", "rest"]
    assert len(groups.no_decay(Model().embed, allow_empty=True)) == 1


def only_the_head(model):
    return groups.by_pattern(model, {"head.*": {"lr": 0.25}})


@pytest.mark.parametrize("how", ["no_decay", "yolo", only_the_head])
def test_create_optimizer_groups(how):
    model = Model()
    optimizer = thalweg.create_optimizer(model, "lion + cautious", groups=how, weight_decay=0.5)
    wanted = how(model) if callable(how) else getattr(groups, how)(model)
    assert [g["param_names"] for g in optimizer.param_groups] == [g["param_names"] for g in wanted]
    decays = [g["weight_decay"] for g in optimizer.param_groups]
    assert decays == [g.get("weight_decay", 0.5) for g in wanted]
    muon = thalweg.create_optimizer(model, "muonadamw", groups="muon")
    assert [g["rule"] for g in muon.param_groups] == ["muon", "adam", "adam"]


def test_create_optimizer_refuses_groups():
    with pytest.raises(ArgumentError, match="Did you mean 'no_decay'"):
        thalweg.create_optimizer(Model(), "lion", groups="nodecay")
    with pytest.raises(ArgumentTypeError, match="is no module; pass the model"):
        thalweg.create_optimizer(Model().parameters(), "lion", groups="yolo")
    with pytest.raises(
        ValueError, match=r"more than one parameter group: 'conv[.]bias' is in group 0"
    ):
        thalweg.create_optimizer(
            Model(), "lion", groups=lambda m: [*groups.yolo(m), groups.yolo(m)[0]]
        )


def test_check_names_the_parameter():
    model = Model()
    with pytest.raises(ArgumentError, match=r"'conv.weight' is in group 0 and in group 1"):
        groups.check(
            [{"params": model.parameters()}, {"params": [("x", model.conv.weight)]}], model
        )
    with pytest.raises(ArgumentError, match=r"^embed.weight, .*: trainable, and in no group"):
        groups.check([{"params": [model.head.bias]}], model)
    with pytest.raises(
        ArgumentError, match=r"group 0 has a parameter \(embed.weight\) that is not"
    ):
        groups.check([{"params": copy.deepcopy(model).named_parameters()}], model)
    with pytest.raises(ArgumentError, match="twice in group 0"):
        groups.check([{"params": [model.head.bias, model.head.bias]}], model)
