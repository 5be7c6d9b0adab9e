"""The command line: arguments only."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

from thalweg import __version__, list_optimizers, optimizer_info, option_info, study
from thalweg.errors import ThalwegError, suggest
from thalweg.study import rates

with suppress(ModuleNotFoundError):  # main() says so
    import typer

EXTRA = ("matplotlib", "numpy", "rich", "sklearn", "typer")
"""What the extra ``study`` installs, by the names of the modules."""


def main() -> None:
    """Run the command ``thalweg``."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The thalweg command needs {', '.join(missing)}, which the extra 'study' installs: "
            'pip install "thalweg[study]"'
        )
    sys.path.insert(0, os.getcwd())  # so that module:attribute finds the user's own module
    app()()


def app() -> typer.Typer:
    """Return the command with its subcommands."""
    built = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(thalweg)
    built.command()(compare)
    built.command()(check)
    built.command("list")(list_names)
    built.command()(info)
    built.command()(trajectories)
    built.command()(effective_lr)
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    built.command(context_settings=passed_on)(yolo)
    built.command()(schedule)
    return built


with suppress(NameError):  # without typer nothing below is called
    Optimizers = Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OPTIMIZER]...",
            help="A name with options, 'lion + cautious', or module:attribute of your own: an "
            "optimizer class, a function (params, lr=...), or a rule. By default: "
            "sgd(momentum=0.9), adamw, lion and ranger.",
            show_default=False,
        ),
    ]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


def thalweg(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Thalweg: write an optimizer once, compose it with anything, run it fused."""


def compare(
    optimizers: Optimizers = None,
    task: Annotated[str, typer.Option(help="What to train on.")] = "digits",
    epochs: Annotated[int, typer.Option(help="Passes over the data per run.")] = study.EPOCHS,
    seeds: Annotated[int, typer.Option(help="Final runs per optimizer.")] = study.SEEDS,
    seed: Annotated[int, typer.Option(help="Where the seeds start.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[
        Path, typer.Option(help="Folder for losses.png, table.md and results.json.")
    ] = Path("runs/compare"),
) -> None:
    """Train with several optimizers, each at its own best learning rate, and compare them."""
    from rich.console import Console

    from thalweg.study.live import Live, show

    console = Console()
    names = optimizers or study.DEFAULTS
    try:
        with Live(console) as live:
            found = study.compare(names, task, epochs, seeds, seed, device, output, progress=live)
    except ThalwegError as error:
        _refuse(error)
    if found.finished:
        show(found, console)
        typer.echo(f"{found.seconds:.0f} s. Written to {output}: {', '.join(study.FILES)}")
    if found.interrupted:
        typer.echo("Interrupted" + ("." if found.finished else " before anything was finished."))
        raise typer.Exit(130)


def list_names(
    pattern: Annotated[
        str, typer.Argument(help="A part of a name, or with * and ? the whole of it.")
    ] = "*",
    able: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="CAPABILITY",
            help="Only what takes or needs this: sparse, complex, ...",
        ),
    ] = None,
) -> None:
    """List the optimizers: bytes of state, and what each does."""
    from rich.console import Console

    from thalweg.catalogue.show import show_list

    try:
        names = list_optimizers(pattern, **dict.fromkeys(able or (), True))
    except ThalwegError as error:
        _refuse(error)
    if not names:
        _refuse(f"No optimizer matches {pattern!r}.{suggest(pattern, list_optimizers())}")
    show_list(names, Console())


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="An optimizer, a composition, 'lion + lookahead(k=5)', an option, 'lookahead', or a "
            "wrapper, 'sam'."
        ),
    ],
) -> None:
    """Tell about an optimizer or option: formula, arguments, state, paper; or about a wrapper."""
    from rich.console import Console

    from thalweg.catalogue.names import known_wrapper
    from thalweg.catalogue.option_info import is_option
    from thalweg.catalogue.show import show_info, show_option, show_wrapper

    try:
        if is_option(name):
            show_option(option_info(name), Console())
        elif (wrapper := known_wrapper(name)) is not None:
            show_wrapper(wrapper, Console())
        else:
            show_info(optimizer_info(name), Console())
    except ThalwegError as error:
        _refuse(error)


def yolo(context: typer.Context) -> None:
    """Run Ultralytics' command yolo with our optimizers: thalweg yolo train model=... optimizer=lion."""
    from thalweg.integrations import ultralytics

    try:
        ultralytics.yolo(context.args)
    except ThalwegError as error:
        _refuse(error)


def _refuse(reason: object) -> NoReturn:
    typer.echo(f"Error: {reason}", err=True)
    raise typer.Exit(2) from None


def trajectories(
    optimizers: Optimizers = None,
    surface: Annotated[str, typer.Option(help=f"One of {', '.join(study.SURFACES)}.")] = "ravine",
    steps: Annotated[int, typer.Option(help="Steps of every path.")] = study.STEPS,
    output: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path(
        "runs/trajectories"
    ),
    gif: Annotated[bool, typer.Option("--gif", help="Write an animation too.")] = False,
) -> None:
    """Draw the paths of optimizers over a surface; print how far from the minimum they are.

    A name with lr=... runs at that rate; else a small search chooses it. With lookahead both of its
    paths are drawn.
    """
    from rich.console import Console

    from thalweg.study.figures import paths
    from thalweg.study.live import show_distances

    try:
        found = study.trajectories(optimizers or study.DEFAULTS, surface, steps, output, gif=gif)
    except ThalwegError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    show_distances(found, Console())
    typer.echo(f"Written to {output}: {', '.join(paths.names(found, gif=gif))}")


def effective_lr(
    optimizers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OPTIMIZER]...",
            help="Adam or a relative of it, with its options. "
            f"By default: {', '.join(study.ADAPTIVE)}.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="What to train on.")] = "digits",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = rates.EPOCHS,
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for effective-lr.png.")] = Path(
        "runs/effective-lr"
    ),
) -> None:
    """Draw the learning rate that each weight really gets through training."""
    from rich.console import Console

    from thalweg.study.live import Live, show_rates

    console, names = Console(), optimizers or study.ADAPTIVE
    try:
        with Live(console) as live:
            found = study.effective_lr(names, task, epochs, seed, output, progress=live)
    except ThalwegError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    show_rates(found, console)
    typer.echo(f"Written to {output}: {rates.FILE}")


def schedule(
    text: Annotated[
        str,
        typer.Argument(
            metavar="SCHEDULE", help='As "warmup(500) >> cosine(10000)".', show_default=False
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(help="How much of it; by default its length.", show_default=False)
    ] = None,
    lr: Annotated[float, typer.Option(help="What its factors multiply.")] = 1.0,
    output: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path(
        "runs/schedule.png"
    ),
) -> None:
    """Draw a schedule; print some of its values."""
    from thalweg.schedules import parse, tabulated

    try:
        found = parse(text)
        found.plot(steps, output, base=lr)
        table = tabulated(found, steps, lr)
    except (ThalwegError, OSError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(table)
    typer.echo(f"Written to {output}")


def check(
    optimizer: Annotated[
        str,
        typer.Argument(
            metavar="OPTIMIZER",
            help="A class, a function (params, **overrides) or a rule, anybody's: torch.optim.SGD, "
            "package.module:my_rule, 'torch.optim.SGD(momentum=0.9)'; or a name with options, "
            "'lion + cautious'.",
            show_default=False,
        ),
    ],
    declare: Annotated[
        list[str] | None,
        typer.Option(
            help="What it declares of itself, as real-only; repeatable. Checks that this takes "
            "away are counted as not applicable.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A check by name; repeatable. By default all.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List what passed too, with the reason of each check.")
    ] = False,
) -> None:
    """Check that an optimizer behaves as users of torch.optim may rely on; exit code 1 if not."""
    from rich.console import Console

    from thalweg.conformance import check_optimizer
    from thalweg.conformance.show import show

    try:
        report = check_optimizer(optimizer, capabilities=declare or (), checks=only)
    except ThalwegError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    show(report, Console(), everything=everything)
    if not report.ok:
        raise typer.Exit(1)
