"""The real Ultralytics, trained with our optimizers: names, numbers, losses, resuming, what is refused."""

import shutil
from functools import partial

import pytest
import torch

from small_detection import PLAIN, SMALL, images
from thalweg.errors import ArgumentError, ArgumentTypeError
from thalweg.integrations.ultralytics import trainer_for
from thalweg.integrations.ultralytics.values import settled
from ultralytics_offline import ultralytics

NAMES = ("Lion", "Ranger", "AdamW")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return ultralytics(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def data(package, tmp_path_factory):
    return images(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Run:
    """A training; its losses by batch, its trainer, and last.pt of each epoch."""

    def __init__(self, model, folder, trainer, at=(), **arguments):
        self.losses, self.kept, self.folder = [], {}, folder
        self.model = model
        model.add_callback("on_train_batch_end", lambda t: self.losses.append(t.loss.item()))
        model.add_callback("on_model_save", partial(self._keep, at))
        settings = {"project": str(folder), "name": "run", "nbs": arguments.get("batch", 4)}
        model.train(trainer=trainer, **{**SMALL, **PLAIN, **settings, **arguments})
        self.trainer = model.trainer

    def _keep(self, at, trainer):
        if trainer.epoch in at:
            self.kept[trainer.epoch] = self.folder / f"epoch{trainer.epoch}.pt"
            shutil.copy(trainer.last, self.kept[trainer.epoch])

    @property
    def state(self):
        return self.trainer.optimizer.state_dict()


def same_bits(a, b):
    """Whether two nests of containers, numbers and tensors are the same."""
    if isinstance(a, torch.Tensor):
        return a.dtype is b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return a == b


def resumed(package, run, epoch, **settings):
    """The rest of a training from its checkpoint of an epoch."""
    kind = package.RTDETR if "rtdetr" in str(run.model.overrides.get("model", "")) else package.YOLO
    model = kind(run.kept[epoch])
    again = object.__new__(Run)
    again.losses, again.model = [], model
    model.add_callback("on_train_batch_end", lambda t: again.losses.append(t.loss.item()))
    model.train(trainer=trainer_for(model, **settings), resume=True)
    again.trainer = model.trainer
    return again


def assert_goes_on(run, again):
    batches = len(again.losses)
    assert 0 < batches < len(run.losses)
    assert again.losses == run.losses[-batches:]
    assert same_bits(again.state["state"], run.state["state"])
    assert same_bits(again.state["param_groups"], run.state["param_groups"])
    assert same_bits(again.trainer.model.state_dict(), run.trainer.model.state_dict())
    assert same_bits(again.trainer.ema.ema.state_dict(), run.trainer.ema.ema.state_dict())


# Numbers ------------------------------------------------------------------------------------------


def test_what_was_not_passed_is_the_algorithms_own():
    found = settled({"optimizer": "Lion", "epochs": 3})
    assert found == {
        "optimizer": "Lion", "epochs": 3, "lr0": 1e-4, "momentum": 0.9, "warmup_momentum": 0.9,
        "weight_decay": 0.0, "warmup_bias_lr": 0.0,
    }  # fmt: skip
    assert settled({"optimizer": "AdamW"})["weight_decay"] == 0.01


def test_what_was_passed_stays_and_what_is_written_in_the_name_wins():
    passed = {"lr0": 0.3, "momentum": 0.5, "weight_decay": 0.1, "warmup_bias_lr": 0.2}
    assert settled({"optimizer": "lion", **passed}).items() >= passed.items()
    text = "lion(lr=0.02, betas=(0.95, 0.98), weight_decay=0.4) + cautious"
    found = settled({"optimizer": text, **passed})
    assert (found["lr0"], found["momentum"], found["weight_decay"]) == (0.02, 0.95, 0.4)


def test_numbers_of_ultralytics_stay_with_sgd_and_with_its_own():
    for name in ("auto", "MuSGD", "musgd", "SGD"):
        assert settled({"optimizer": name}) == {"optimizer": name}
    assert settled({"imgsz": 64}) == {"imgsz": 64}
    assert settled({"optimizer": "lion", "resume": True}) == {"optimizer": "lion", "resume": True}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lyon", "unknown optimizer 'lyon' .*Did you mean 'lion'.*Ultralytics' auto, MuSGD"),
        ("MusGDD", "Did you mean 'MuSGD'"),
        ("lion + lookahed", "unknown option 'lookahed'.*'lookahead'"),
        ("lion(", "does not read as names"),
        ("LBFGS", "needs a closure, and Ultralytics passes none"),
        ("Muon", "matrices only.*muonadamw"),
        ("SparseAdam", "sparse gradients only"),
    ],
)
def test_a_name_that_cannot_train_is_refused_and_nothing_is_trained(
    package, data, tmp_path, name, said
):
    model = package.YOLO("yolov8n.yaml")
    with pytest.raises(ArgumentError, match=said):
        Run(model, tmp_path, trainer_for(model), data=data, epochs=1, optimizer=name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_or_no_average_is_refused(package):
    with pytest.raises(ArgumentTypeError, match=r"got Linear; it takes Ultralytics' models"):
        trainer_for(torch.nn.Linear(1, 1))
    with pytest.raises(ArgumentTypeError, match=r"average=0\.999; it is a function"):
        trainer_for(package.YOLO("yolov8n.yaml"), average=0.999)


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", ["yolov8n.yaml", "rtdetr-l.yaml"])
def test_losses_fall_and_resuming_goes_on_with_the_same_bits(
    package, data, tmp_path, network, name
):
    kind, batch, epochs = (package.YOLO, 4, 16) if "yolo" in network else (package.RTDETR, 2, 6)
    model = kind(network)
    run = Run(
        model, tmp_path, trainer_for(model), at=(epochs // 2,), data=data, epochs=epochs,
        batch=batch, optimizer=name, warmup_epochs=1.0, seed=3,
    )  # fmt: skip
    assert len(run.losses) >= 24
    quarter = len(run.losses) // 4
    ratio = sum(run.losses[-quarter:]) / sum(run.losses[:quarter])
    print(f"\n{network} {name}: mean loss of the last quarter / of the first: {ratio:.3f}")
    assert ratio < 1
    assert type(run.trainer.optimizer).__name__ == name
    assert [g["param_group"] for g in run.trainer.optimizer.param_groups] == [
        "bias",
        "weight",
        "bn",
    ]
    assert_goes_on(run, resumed(package, run, epochs // 2))
