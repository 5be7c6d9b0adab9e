"""What a parameter is for: tokens, tables, magnitudes and norms that nobody knows; frozen and lazy ones."""

import pytest
import torch
from torch import nn

import thalweg
from thalweg import groups
from thalweg.errors import ArgumentError, ArgumentTypeError


class ViT(nn.Module):
    """Tokens, positions and tables that are registered on the model itself."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.proj = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.mlp = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.old = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 1)


class Unknown(nn.Module):
    """A norm by another name."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))


def where(found):
    return {n: g["param_group"] for g in found for n in g["param_names"]}


def test_muon_gets_matrices_of_layers_that_map_and_no_others():
    tags = where(groups.muon(ViT()))
    assert {n for n, tag in tags.items() if tag == "muon"} == {
        "proj.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "mlp.parametrizations.weight.original1",
        "old.weight",
    }
    assert tags["mlp.parametrizations.weight.original0"] == "adamw_no_decay"
    assert tags["cls_token"] == "adamw_no_decay"
    assert tags["pos_embed"] == tags["relative_position_bias_table"] == "adamw"
    thalweg.MuonAdamW(groups.muon(ViT()))


def test_muon_takes_what_is_included_and_never_a_row():
    tags = where(groups.muon(ViT(), include="relative_*"))
    assert tags["relative_position_bias_table"] == "muon"
    tags = where(groups.muon(ViT(), exclude=(), include=["head.*"]))
    assert tags["head.weight"] == "adamw"  # a single row
    with pytest.raises(ArgumentError, match="include='rope' matches no parameter"):
        groups.muon(ViT(), include="rope")


def test_a_bias_is_named_so_and_is_a_vector():
    for tags in (where(groups.yolo(ViT())), where(groups.no_decay(ViT()))):
        assert tags["relative_position_bias_table"] in ("weight", "decay")
        assert tags["attention.in_proj_bias"] == tags["attention.bias_k"] == tags["old.bias"]
        assert tags["old.bias"] in ("bias", "no_decay")
        assert tags["head.weight"] in ("weight", "decay")
        assert tags["cls_token"] in ("bn", "no_decay")


def test_yolo_decays_no_vector_of_a_module_it_does_not_know():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Unknown(), nn.GroupNorm(2, 4))
    assert where(groups.yolo(model))["1.weight"] == "bn"


def test_an_embedding_bag_is_an_embedding():
    model = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert where(groups.muon(model))["0.weight"] == "adamw"
    assert where(groups.no_decay(model, embeddings=True))["0.weight"] == "no_decay"


def test_a_pattern_alone_is_a_pattern():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert where(groups.no_decay(model, skip="0.weight"))["0.weight"] == "no_decay"
    assert where(groups.no_decay(model, skip=nn.Linear))["1.weight"] == "no_decay"
    assert where(groups.muon(model, exclude="0.weight"))["0.weight"] == "adamw"


FROZEN = {
    "by_pattern": lambda m: groups.by_pattern(m, {"0.*": {"lr": 1.0}}),
    "no_decay": lambda m: groups.no_decay(m, skip="0.weight"),
    "muon": lambda m: groups.muon(m),
    "yolo": lambda m: groups.yolo(m),
}


@pytest.mark.parametrize("build", FROZEN.values(), ids=FROZEN)
def test_what_only_frozen_parameters_match_is_said_so(build):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].requires_grad_(requires_grad=False)
    with pytest.raises(ArgumentError, match=r"is frozen \(0.weight.*frozen=True"):
        build(model)


@pytest.mark.parametrize("build", [groups.no_decay, groups.yolo, groups.muon])
def test_a_parameter_without_a_shape_is_named(build):
    with pytest.raises(ArgumentError, match=r"'0.weight' has no shape yet: run a batch"):
        build(nn.Sequential(nn.LazyLinear(3), nn.LayerNorm(3)))


def test_a_number_that_is_nearly_one_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ArgumentError, match=r"sets 'lrr'. Did you mean 'lr'"):
        groups.by_pattern(model, {"*": {"lrr": 1}})
    assert groups.by_pattern(model, {"*": {"lr_scale": 0.5, "note": "x"}})[0]["note"] == "x"


def test_check_leaves_a_generators_parameters_in_the_group():
    model = nn.Linear(2, 2)
    made = [{"params": model.parameters()}]
    groups.check(made, model)
    assert len(torch.optim.SGD(made, lr=0.1).param_groups[0]["params"]) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m: list(m.parameters()), "group 0 is no dict; it needs to be a dict with 'params'"),
        (lambda m: [{"x": 1}], "group 0 has 'x'; it needs"),
        (lambda m: m.parameters(), "groups are a list of dicts.*; got generator"),
        (lambda m: [{"params": 3}], "group 0 has params=3"),
        (lambda m: [{"params": ["weight"]}], "group 0 has 'weight' among its params"),
    ],
)
def test_check_refuses_what_is_no_group(wrong, said):
    model = nn.Linear(2, 2)
    with pytest.raises(ArgumentTypeError, match=said):
        groups.check(wrong(model), model)
