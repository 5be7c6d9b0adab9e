"""Pages of the documentation, one per optimizer, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from thalweg.catalogue import docstrings
from thalweg.catalogue.info import Argument, OptimizerInfo, list_optimizers, optimizer_info

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
    return f"`{a.name}`", f"`{a.default!r}`", a.range, meaning


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
