"""The real Ultralytics, trained with our optimizers: names, numbers, losses, resuming, what is refused."""

import pickle
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from small_detection import PLAIN, SMALL, classes, images
from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError
from thalweg.integrations.ultralytics import trainer_for
from thalweg.integrations.ultralytics.values import settled
from thalweg.recipe import ModelAverage
from ultralytics_offline import ultralytics

MORE = pytest.mark.more


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return ultralytics(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def data(package, tmp_path_factory):
    return images(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _flags_may_be_set(monkeypatch):
    """Who imports torch's testing tools forbids it in the process; Ultralytics sets some as it trains."""
    inside = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(inside, "__allow_nonbracketed_mutation_flag", True)
    assert not torch.backends.flags_frozen()


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
        ("lion + lookahed", "optimizer='lion . lookahed': unknown option 'lookahed'.*'lookahead'"),
        ("lion(", "does not read as names"),
        ("LBFGS", "needs a closure, and Ultralytics passes none"),
        ("Muon", "matrices only.*muonadamw"),
        ("SparseAdam", "sparse gradients only"),
        ("lion(foo=1)", "unexpected keyword argument 'foo'"),
        ("lion(betas=0.9)", "betas=0.9; Lion takes 2 numbers"),
        ("adamw(weight_decay=-1)", "Invalid weight_decay value: -1"),
    ],
)
def test_a_name_that_cannot_train_is_refused_and_nothing_is_trained(
    package, data, tmp_path, name, said
):
    model = package.YOLO("yolov8n.yaml")
    with pytest.raises((ArgumentError, ArgumentTypeError), match=said):
        Run(model, tmp_path, trainer_for(model), data=data, epochs=1, optimizer=name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_or_no_average_is_refused(package):
    with pytest.raises(ArgumentTypeError, match=r"got Linear; it takes Ultralytics' models"):
        trainer_for(torch.nn.Linear(1, 1))
    with pytest.raises(ArgumentTypeError, match=r"average=0\.999; it is a function"):
        trainer_for(package.YOLO("yolov8n.yaml"), average=0.999)


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Lion", pytest.param("Ranger", marks=MORE), pytest.param("AdamW", marks=MORE)]
)
@pytest.mark.parametrize("network", ["yolov8n.yaml", "rtdetr-l.yaml"])
@pytest.mark.timeout(1800)  # RT-DETR is large; a machine may have more to do
def test_losses_fall_and_resuming_goes_on_with_the_same_bits(
    package, data, tmp_path, network, name
):
    """Ranger takes small steps at first: it gets more of them, and no warm-up of Ultralytics' on top."""
    least = 64 if package.__version__ >= "8.4" else 128  # 8.3 wants 300 places to look at
    kind, batch, epochs, size = (
        (package.YOLO, 4, 16, 96) if "yolo" in network else (package.RTDETR, 2, 6, least)
    )
    warmup = 1.0  # in 8.3 never less than 100 batches
    if name == "Ranger":
        epochs, warmup = (32 if "yolo" in network else 8), 0.0
    model = kind(network)
    run = Run(
        model, tmp_path, trainer_for(model), at=(epochs // 2,), data=data, epochs=epochs,
        batch=batch, imgsz=size, optimizer=name, warmup_epochs=warmup, seed=3,
    )  # fmt: skip
    assert len(run.losses) >= 24
    quarter = len(run.losses) // 4
    ratio = sum(run.losses[-quarter:]) / sum(run.losses[:quarter])
    print(f"\n{network} {name}: mean loss of the last quarter / of the first: {ratio:.3f}")
    assert ratio < 1
    assert type(run.trainer.optimizer).__name__ == name
    held = sum(x.nbytes for entries in run.state["state"].values() for x in entries.values())
    weights = sum(p.nbytes for p in run.trainer.model.parameters() if p.requires_grad)
    assert held / weights == pytest.approx({"Lion": 1, "AdamW": 2, "Ranger": 3}[name], rel=1e-3)
    assert [g["param_group"] for g in run.trainer.optimizer.param_groups] == [
        "bias",
        "weight",
        "bn",
    ]
    assert_goes_on(run, resumed(package, run, epochs // 2))


def stopped(after):
    """A callback that ends the training as Ctrl-C does, once the checkpoint of an epoch is written."""

    def stop(trainer):
        if trainer.epoch == after:
            raise KeyboardInterrupt

    return stop


def test_a_training_that_is_stopped_goes_on_amid_accumulation_with_mosaic_and_lookahead(
    package, data, tmp_path
):
    """Two batches an epoch and three a step: the fourth epoch ends with gradients that wait."""
    settings = {
        "data": data, "epochs": 6, "batch": 4, "nbs": 12, "mosaic": 1.0, "fliplr": 0.5, "hsv_h": 0.1,
        "close_mosaic": 1, "warmup_epochs": 0.0, "cos_lr": True, "lr0": 3e-4, "momentum": 0.8,
        "optimizer": "lion(betas=(0.8, 0.98)) + lookahead(k=2)",
    }  # fmt: skip
    model = package.YOLO("yolov8n.yaml")
    run = Run(model, tmp_path / "whole", trainer_for(model), **settings)
    assert run.trainer.optimizer.param_groups[0]["betas"] == (0.8, 0.98)
    broken = package.YOLO("yolov8n.yaml")
    broken.add_callback("on_model_save", stopped(after=3))
    with pytest.raises(KeyboardInterrupt):
        Run(broken, tmp_path / "broken", trainer_for(broken), **settings)
    again = Run.__new__(Run)
    again.losses = []
    model = package.YOLO(tmp_path / "broken" / "run" / "weights" / "last.pt")
    model.add_callback("on_train_batch_end", lambda t: again.losses.append(t.loss.item()))
    model.train(trainer=trainer_for(model), resume=True)
    again.trainer = model.trainer
    assert len(again.losses) == 4
    assert_goes_on(run, again)


def state_of(path):
    """The weights that a checkpoint is used with."""
    return torch.load(path, weights_only=False)["model"].state_dict()


@pytest.mark.parametrize(
    "name", ["AdamWScheduleFree", pytest.param("lion + average(decay=0.5)", marks=MORE)]
)
def test_what_averages_itself_is_validated_and_saved_averaged(package, data, tmp_path, name):
    model, seen = package.YOLO("yolov8n.yaml"), []

    def look(trainer):
        with trainer.optimizer.averaged():
            seen.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})

    model.add_callback("on_model_save", look)
    run = Run(
        model, tmp_path, trainer_for(model), at=(2,), data=data, epochs=4, batch=4, optimizer=name,
        warmup_epochs=0.0, val=True,
    )  # fmt: skip
    saved = state_of(run.trainer.last)
    own = run.trainer.model.state_dict()
    for n, p in seen[-1].items():
        assert torch.equal(saved[n], p.half())
    assert any(not torch.equal(saved[n], own[n].half()) for n in saved)
    factor = run.trainer.lf(3)
    assert factor == 1.0 if name == "AdamWScheduleFree" else factor < 1.0
    assert_goes_on(run, resumed(package, run, 2))


@pytest.mark.parametrize("kind", ["swa", pytest.param(None, marks=MORE)])
def test_ultralytics_average_may_be_ours_or_none(package, data, tmp_path, kind):
    average = partial(ModelAverage, kind=kind) if kind else False
    model = package.YOLO("yolov8n.yaml")
    run = Run(
        model, tmp_path, trainer_for(model, average=average), at=(1,), data=data, epochs=3, batch=4,
        optimizer="adamw", warmup_epochs=0.0,
    )  # fmt: skip
    trainer = run.trainer
    own = {n: p.clone() for n, p in trainer.model.state_dict().items()}
    if average:
        with trainer.average.averaged():
            own = {n: p.clone() for n, p in trainer.model.state_dict().items()}
        assert trainer.average.updates == 6
    halves = {n: x.half() if x.is_floating_point() else x for n, x in own.items()}
    assert same_bits(dict(state_of(trainer.last)), halves)
    assert_goes_on(run, resumed(package, run, 1, average=average))
    if average:
        for other, said in (
            (None, "trained with average=a function; this trainer has average=None"),
            (
                partial(ModelAverage, decay=0.5),
                "average of kind='swa'; this trainer's has kind='ema'",
            ),
        ):
            with pytest.raises(CheckpointError, match=said):
                resumed(package, run, 1, average=other)
        with pytest.raises(ArgumentTypeError, match=r"average= made 5; it is a function"):
            resumed(package, run, 1, average=lambda _: 5)


def test_a_schedule_of_ours_drives_the_epochs(package, data, tmp_path):
    model, rates = package.YOLO("yolov8n.yaml"), []
    model.add_callback(
        "on_train_epoch_end", lambda t: rates.append(t.optimizer.param_groups[1]["lr"])
    )
    run = Run(
        model, tmp_path, trainer_for(model, schedule="exponential(0.5)"), at=(1,), data=data,
        epochs=4, batch=4, optimizer="lion(lr=0.001)", warmup_epochs=0.0,
    )  # fmt: skip
    assert rates == [0.001, 0.0005, 0.00025, 0.000125]
    assert_goes_on(run, resumed(package, run, 1, schedule="exponential(0.5)"))
    with pytest.raises(CheckpointError, match=r"schedule=exponential\(0.5\); this trainer has sch"):
        resumed(package, run, 1)
    for passed, said in (
        (
            {"optimizer": "lionn"},
            "has optimizer='lion.lr=0.001.', and optimizer='lionn' was passed",
        ),
        ({"lr0": 0.5}, "has lr0=0.001, and lr0=0.5 was passed"),
    ):
        model = package.YOLO(run.kept[1])
        with pytest.raises(CheckpointError, match=said):
            model.train(trainer=trainer_for(model), resume=True, **passed)


def test_a_schedule_shorter_than_training_is_refused(package, data, tmp_path):
    model = package.YOLO("yolov8n.yaml")
    with pytest.raises(
        ArgumentError, match=r"cosine\(2\) ends at step 2, and training has 4 steps"
    ):
        Run(
            model, tmp_path, trainer_for(model, schedule="cosine(2)"), data=data, epochs=4,
            batch=4, optimizer="lion",
        )  # fmt: skip


def test_a_training_of_ultralytics_own_goes_as_without_us(package, data, tmp_path):
    """And a checkpoint of its AdamW is refused by name, for its groups are others."""
    runs = []
    for own in (False, True):
        model = package.YOLO("yolov8n.yaml")
        runs.append(
            Run(
                model,
                tmp_path / str(own),
                trainer_for(model) if own else None,
                data=data,
                epochs=2,
                batch=4,
                optimizer="auto",
                fliplr=0.5,
            )
        )
    assert runs[0].losses == runs[1].losses
    assert same_bits(runs[0].state, runs[1].state)
    assert type(runs[1].trainer.optimizer) is torch.optim.AdamW
    model = package.YOLO("yolov8n.yaml")
    run = Run(
        model, tmp_path / "stock", None, at=(0,), data=data, epochs=2, batch=4, optimizer="AdamW"
    )
    with pytest.raises(CheckpointError, match="was not written by trainer_for"):
        resumed(package, run, 0)


def test_weights_that_are_not_finite_are_recovered_with_the_whole_state(package, data, tmp_path):
    """Ultralytics goes back to last.pt; in its float16 what Lookahead keeps of weights would be rounded."""
    model, lost = package.YOLO("yolov8n.yaml"), []

    def break_once(trainer):
        if trainer.epoch == 2 and not lost:
            lost.append({k: v.clone() for k, v in kept["state"].items()})
            trainer.loss = trainer.loss * float("nan")
            trainer.fitness = float("nan")  # 8.3 wants both

    kept = {}

    def keep(trainer):
        if trainer.epoch == 1:
            first = trainer.optimizer.param_groups[1]["params"][0]
            kept["state"] = {k: v.clone() for k, v in trainer.optimizer.state[first].items()}

    seen = []

    def compare(trainer):
        trainer.fitness = 0.0
        if trainer.epoch == 2 and lost and not seen:
            first = trainer.optimizer.param_groups[1]["params"][0]
            seen.append(same_bits(dict(trainer.optimizer.state[first]), lost[0]))

    model.add_callback("on_model_save", keep)
    model.add_callback("on_train_epoch_end", break_once)
    model.add_callback("on_train_epoch_start", compare)
    Run(
        model, tmp_path, trainer_for(model), data=data, epochs=4, batch=4,
        optimizer="lion + lookahead(k=2)", warmup_epochs=0.0,
    )  # fmt: skip
    assert seen == [True]


@pytest.mark.parametrize(
    "task", ["classify", *(pytest.param(task, marks=MORE) for task in ("segment", "obb", "pose"))]
)
def test_every_task_has_its_trainer(package, tmp_path, task):
    kind = {"segment": "seg", "classify": "cls"}.get(task, task)
    labels = "keypoints" if task == "pose" else "corners"
    folder = tmp_path / "data"
    data = classes(folder) if task == "classify" else images(folder, labels=labels)
    model = package.YOLO(f"yolov8n-{kind}.yaml")
    assert model.task == task
    run = Run(
        model, tmp_path, trainer_for(model), at=(1,), data=data, epochs=3, batch=4, imgsz=64,
        optimizer="Lion", warmup_epochs=0.0,
    )  # fmt: skip
    assert type(run.trainer.optimizer).__name__ == "Lion"
    assert_goes_on(run, resumed(package, run, 1))


# Doors --------------------------------------------------------------------------------------------


def test_trainers_are_known_by_name_to_other_processes(package):
    import thalweg.integrations.ultralytics as ours

    for model in (
        package.YOLO("yolov8n.yaml"),
        package.YOLO("yolov8n-seg.yaml"),
        package.RTDETR("rtdetr-l.yaml"),
    ):
        cls = trainer_for(model)
        assert cls is trainer_for(model)
        assert getattr(ours, cls.__name__) is cls
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert issubclass(cls, model.task_map[model.task]["trainer"])
    with pytest.raises(AttributeError, match="no attribute 'ThalwegLostTrainer'"):
        _ = ours.ThalwegLostTrainer


def test_what_was_filled_in_goes_to_other_processes_with_the_arguments(package, data, tmp_path):
    """As Ultralytics sends them: the class, unpickled, with all arguments as if they had been passed."""
    cloudpickle = pytest.importorskip("cloudpickle")
    model = package.YOLO("yolov8n.yaml")
    given = {**SMALL, "model": "yolov8n.yaml", "data": str(data), "project": str(tmp_path)}
    for cls in (trainer_for(model), trainer_for(model, schedule="constant(1)", average=False)):
        first = cls(overrides={**given, "optimizer": "lion(betas=(0.7, 0.8))"})
        sent = pickle.loads(cloudpickle.dumps(cls))
        assert sent.settings == cls.settings
        cfg = {**package.utils.DEFAULT_CFG_DICT, "save_dir": ""}
        again = sent(cfg=cfg, overrides=dict(vars(first.args)))
        for key in ("optimizer", "lr0", "momentum", "weight_decay", "warmup_bias_lr"):
            assert getattr(again.args, key) == getattr(first.args, key)
        assert again.args.momentum == 0.7


def test_the_example_runs(package, tmp_path, monkeypatch, capsys):
    example = Path(__file__).parent.parent / "examples" / "rtdetr_lion.py"
    words = ["--epochs", "1", "--project", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(example), *words])
    runpy.run_path(str(example), run_name="__main__")
    assert "Lion\ndefaults: lr=0.0001" in capsys.readouterr().out


def test_importing_the_adapter_does_not_import_ultralytics():
    code = "import sys, thalweg.integrations.ultralytics; assert 'ultralytics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_line_of_the_log_says_what_is_used(package, data, tmp_path, monkeypatch):
    from ultralytics.utils import LOGGER

    said: list[str] = []
    monkeypatch.setattr(LOGGER, "info", lambda text, *_: said.append(str(text)))
    model = package.YOLO("yolov8n.yaml")
    Run(
        model, tmp_path, trainer_for(model), data=data, epochs=1, batch=4, weight_decay=0.25,
        optimizer="lion(betas=(0.95, 0.98)) + lookahead(k=2)",
    )  # fmt: skip
    (line,) = [x for text in said for x in text.splitlines() if x.startswith("thalweg: Lion")]
    assert line == (
        "thalweg: Lion(lr=0.0001, betas=(0.95, 0.98), weight_decay=0.25) + Lookahead(k=2, alpha=0.5), "
        "warmup_bias_lr=0.0; not passed, and so Lion's own: lr0, warmup_bias_lr, warmup_momentum"
    )


def test_the_command_is_yolo_with_our_names(package, data, tmp_path):
    from typer.testing import CliRunner

    from thalweg import cli

    arguments = {
        **SMALL,
        **PLAIN,
        "data": data,
        "epochs": 1,
        "batch": 4,
        "project": tmp_path,
        "name": "run",
    }
    words = [f"{k}={v}" for k, v in arguments.items()]
    start = ["yolo", "detect", "train", "model=yolov8n.yaml", *words]
    found = CliRunner().invoke(cli.app(), [*start, "optimizer=Lion(betas=(0.95, 0.98)) + cautious"])
    assert found.exit_code == 0, found.output
    args = (tmp_path / "run" / "args.yaml").read_text()
    assert "lr0: 0.0001" in args
    assert "momentum: 0.95" in args
    refused = CliRunner().invoke(cli.app(), [*start, "optimizer=lyon"])
    assert refused.exit_code == 2
    assert "Did you mean 'lion'?" in refused.output
