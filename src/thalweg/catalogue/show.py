"""The catalogue in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thalweg import wrappers
from thalweg.catalogue.docstrings import first_sentence
from thalweg.catalogue.info import Argument, OptimizerInfo
from thalweg.catalogue.names import (
    CLASSES,
    WRAPPERS_PAGE,
    known_wrapper,
    option_classes,
    wrapper_beside,
)
from thalweg.catalogue.option_info import OptionInfo
from thalweg.catalogue.trial import Trial


def show_list(names: Iterable[str], console: Console) -> None:
    """Print a line for each optimizer: name, state, what it is."""
    table = _table("optimizer", "bytes/param", "what it does")
    for name in names:
        size = sum(Trial(name).state().values())
        table.add_row(Text(name, "bold"), f"{size:.3g}", Text(first_sentence(CLASSES[name])))
    console.print(table)
    console.print(
        "bytes/param: state per float32 parameter, by default. More: thalweg info NAME\n"
        f"options, joined by +: {', '.join(sorted(option_classes()))}\n"
        f"wrappers, around any torch.optim.Optimizer: {', '.join(wrappers.__all__)} ({WRAPPERS_PAGE})",
        style="dim",
        highlight=False,
    )


def show_info(info: OptimizerInfo, console: Console) -> None:
    """Print all about one optimizer."""
    console.print(Text.assemble((info.name, "bold"), f"  {info.summary}\n"))
    for variant in info.variants:
        if variant.when:
            console.print(Text(f"\nwith {variant.when}:", "dim"))
        console.print(Text(variant.formula), soft_wrap=True)
    console.print()
    _show_arguments(info.arguments, console)
    for title, text in _facts(info):
        console.print(Text.assemble((f"{title}  ", "bold"), text))


def show_option(info: OptionInfo, console: Console) -> None:
    """Print all about one option."""
    console.print(Text.assemble((info.name, "bold"), f"  {info.summary}\n\nsgd with it:"))
    console.print(Text(info.formula), soft_wrap=True)
    console.print()
    if info.arguments:
        _show_arguments(info.arguments, console)
    for title, text in (fact for fact in info.facts() if fact[0] != "wrapper"):
        console.print(Text.assemble((f"{title}  ", "bold"), text))
    wrapper = known_wrapper(info.cls.__name__)
    if wrapper is not None:
        console.print()
        show_wrapper(wrapper, console)


def show_wrapper(cls: type, console: Console) -> None:
    """Print what a wrapper does, how it is called, and where more is said."""
    call = wrapper_beside(cls.__name__)
    console.print(Text.assemble((call, "bold"), "  a wrapper, around any torch.optim.Optimizer"))
    console.print(Text(first_sentence(cls)))
    console.print(f"More: {WRAPPERS_PAGE}", style="dim", highlight=False)


def _show_arguments(given: Iterable[Argument], console: Console) -> None:
    arguments = _table("argument", "default", "allowed", "what it is")
    for a in given:
        meaning = a.meaning if a.passed else "a key of the group"
        arguments.add_row(Text(a.name, "bold"), Text(a.shown), Text(a.range), Text(meaning))
    console.print(arguments)


def _facts(info: OptimizerInfo) -> list[tuple[str, str]]:
    kept = [
        f"{v.state_bytes:.3g} ({', '.join(v.state) or 'nothing'}){f' with {v.when}' if v.when else ''}"
        for v in info.variants
    ]
    facts = [
        ("bytes of state per float32 parameter", "; ".join(dict.fromkeys(kept))),
        ("takes", str(info.capabilities)),
        ("options", ", ".join(info.options) or "none"),
        ("paper", info.paper),
        ("differs", info.differs),
        ("from AdamW", info.advice),
    ]
    return [(title, text) for title, text in facts if text]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, justify="right" if name == "bytes/param" else "left")
    return table
