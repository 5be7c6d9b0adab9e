"""Pages of the documentation in Markdown: one per optimizer, and one of all options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from thalweg import options
from thalweg.catalogue import docstrings
from thalweg.catalogue.info import Argument, OptimizerInfo, list_optimizers, optimizer_info
from thalweg.catalogue.names import option_classes
from thalweg.catalogue.option_info import MAPS, OptionInfo, in_order, option_info
from thalweg.engine.option import Station

NOTICE = "<!-- Written by docs/generate.py from the declarations; do not edit. -->"


def pages() -> dict[str, str]:
    """Every page by its file's name: an index, and one per optimizer."""
    found = {info.name: info for info in map(optimizer_info, list_optimizers())}
    return {
        "index.md": index(found.values()),
        **{f"{name}.md": page(info) for name, info in found.items()},
    }


def index(infos: Iterable[OptimizerInfo]) -> str:
    """The table of all optimizers."""
    rows = [
        (
            f"[{info.cls.__name__}]({info.name}.md)",
            info.summary,
            f"{info.state_bytes:.3g}",
            "yes" if info.capabilities.sparse else "",
            "yes" if info.capabilities.complex else "",
        )
        for info in infos
    ]
    head = ("optimizer", "what it does", "state, bytes per parameter", "sparse", "complex")
    return _joined(
        "# Algorithms",
        "Every optimizer that Thalweg has. State is that of a 128 x 128 matrix in float32, "
        "by default. Formulas are printed from the "
        "traced update, the same graph that the kernels are generated from. In the terminal: "
        "`thalweg list`, `thalweg info lion`; in Python: `thalweg.list_optimizers()`, "
        '`thalweg.optimizer_info("lion")`.',
        table(head, rows),
        NOTICE,
    )


def page(info: OptimizerInfo) -> str:
    """All about one optimizer."""
    said = docstrings.sections(info.cls)
    return _joined(
        f"# {info.cls.__name__}",
        info.summary,
        docstrings.prose(info.cls),
        f'`thalweg.{info.cls.__name__}`, by name `"{info.name}"`.',
        f"**Coming from AdamW:** {info.advice}." if info.advice else "",
        "## Update",
        *_formulas(info),
        "## Arguments",
        table(("name", "default", "allowed", "what it is"), map(_argument, info.arguments)),
        "## State",
        _state(info),
        "## Takes",
        f"- {_kinds(info)}\n- arguments as in torch: {_flags(info)}\n- options: {_options(info)}",
        "## Example",
        f"```pycon\n{said['Example']}\n```" if "Example" in said else "",
        "## Reference",
        info.paper,
        f"Differs: {info.differs}" if info.differs else "",
        NOTICE,
    )


def options_page() -> str:
    """All about every option of `thalweg.options`, in the order in which they act."""
    own = {n: c for n, c in option_classes().items() if c.__name__ in options.__all__}
    order = in_order(own)
    names = dict.fromkeys([n for there in order.values() for n in there] + sorted(own))
    infos = [option_info(name) for name in names]
    rows = [
        (
            f"[{info.cls.__name__}](#{info.cls.__name__.lower()})",
            info.summary,
            f"{info.state_bytes:.3g}",
            str(info.passes),
            ", ".join(f"`{name}`" for name in info.excludes),
        )
        for info in infos
    ]
    head = ("option", "what it does", "state, bytes per parameter", "further passes", "excludes")
    stations = [
        (station, MAPS[station], ", ".join(f"`{name}`" for name in there))
        for station, there in order.items()
    ]
    return _joined(
        "# Options",
        "What can be composed around any optimizer of Thalweg: "
        "`thalweg.AdamW(params, options=[thalweg.options.Lookahead(k=6)])`, or by name, "
        '`thalweg.create_optimizer(model, "adamw + lookahead(k=6)")`. The order of the list does not matter: '
        "gradients, steps and weights pass the stations in this order, and at each its options in theirs.",
        table(("station", "maps", "options, in order"), stations),
        "Formulas are printed from the traced update of plain SGD with the option, by default or as it is "
        "written in its example. State is that of a 128 x 128 matrix in float32, beyond the optimizer's own; "
        "passes are sweeps over its memory before the one that steps, which read and write nothing but sums. "
        "An option stands once in a group. Its numbers are keys of the group, which a schedule can drive. In "
        'the terminal: `thalweg info lookahead`; in Python: `thalweg.option_info("lookahead")`.',
        table(head, rows),
        *(_option(info, order) for info in infos),
        NOTICE,
    )


def _option(info: OptionInfo, order: dict[Station, tuple[str, ...]]) -> str:
    """A section about one option, without the last line's end."""
    said = docstrings.sections(info.cls)
    places = [
        f"{station}, {order[station].index(info.name) + 1} of {len(order[station])} ({MAPS[station]})"
        for station in info.stations
    ]
    kept = ", ".join(f"`{key}`" for key in info.state) or "no tensor"
    counted = f"; numbers: {', '.join(f'`{key}`' for key in info.numbers)}" if info.numbers else ""
    facts = [
        f"acts at: {'; '.join(places) or 'no station: it is how state is stored'}",
        f"keys of the group: {', '.join(f'`{key}`' for key in info.keys)}" if info.keys else "",
        f"keeps: {kept}, {info.state_bytes:.3g} bytes per float32 parameter{counted}",
        f"further passes over memory: {info.passes}",
        f"excludes: {', '.join(f'`{name}`' for name in info.excludes)}" if info.excludes else "",
        f"not around: {', '.join(f'`{name}`' for name in info.refused_by)}"
        if info.refused_by
        else "",
        "the same in all groups" if info.shared else "",
        f"around any `torch.optim.Optimizer`: the wrapper `{info.wrapper}`" if info.wrapper else "",
    ]
    columns = ("name", "default", "allowed", "what it is")
    return _joined(
        f"## {info.cls.__name__}",
        info.summary,
        docstrings.prose(info.cls),
        f'`thalweg.options.{info.cls.__name__}`, in strings `"adamw + {info.written}"`.',
        table(columns, map(_argument, info.arguments)) if info.arguments else "",
        "\n".join(f"- {fact}" for fact in facts if fact),
        f"```\n{info.formula}\n```",
        f"```pycon\n{said['Example']}\n```" if "Example" in said else "",
        f"Reference: {info.paper}" if info.paper else "",
        f"Differs: {info.differs}" if info.differs else "",
    ).rstrip("\n")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in lines
    )


def _formulas(info: OptimizerInfo) -> list[str]:
    parts = []
    for variant in info.variants:
        parts += [f"With {variant.when}:" if variant.when else "", f"```\n{variant.formula}\n```"]
    return parts


def _argument(a: Argument) -> tuple[str, ...]:
    meaning = a.meaning if a.passed else "A key of the group; the class has no argument for it."
    default = a.shown if a.default is inspect.Parameter.empty else f"`{a.shown}`"
    return f"`{a.name}`", default, a.range, meaning


def _state(info: OptimizerInfo) -> str:
    rows = [
        (
            variant.when or "by default",
            ", ".join(f"`{key}`" for key in variant.state) or "nothing",
            f"{variant.state_bytes:.3g}",
        )
        for variant in info.variants
    ]
    held = table(("when", "kept", "bytes per float32 parameter"), rows)
    if info.capabilities.closure:
        held += "\n\nThis is after one step; a history of several steps takes more."
    return held


def _kinds(info: OptimizerInfo) -> str:
    able = info.capabilities
    kinds = [
        "sparse gradients only" if able.sparse_only else "dense gradients",
        "sparse gradients" if able.sparse and not able.sparse_only else "",
        "complex parameters" if able.complex else "",
        "matrices only: no parameter of one dimension" if able.matrix_only else "",
        "a closure, without which there is no step" if able.closure else "",
    ]
    return ", ".join(k for k in kinds if k)


def _options(info: OptimizerInfo) -> str:
    return ", ".join(f"`{o}`" for o in info.options) or "none"


def _flags(info: OptimizerInfo) -> str:
    flags = ("foreach", "fused", "maximize", "capturable", "differentiable")
    return ", ".join(f"`{f}`" for f in flags if getattr(info.capabilities, f)) or "none"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
