"""What the site adds to the pages: the order in the menu, and links behind arXiv numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FIRST = (
    "index.md",
    "options.md",
    "wrappers.md",
    "who-uses-what.md",
    "what-tutorials-get-wrong.md",
)
LAST = ("benchmarks.md", "limits.md", "decisions.md")
"""Top pages in the menu's order; every other one stands between these by name."""

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_UNTOUCHED = re.compile(r"(<pre.*?</pre>|<code.*?</code>|<a .*?</a>|<[^>]*>)", re.S)


def on_config(config: Any) -> Any:
    """Put every page into the menu, so that none is forgotten."""
    folder = Path(config["docs_dir"])
    there = {f.name for f in folder.glob("*.md")}
    between = sorted(there - set(FIRST) - set(LAST))
    algorithms = sorted(f"algorithms/{f.name}" for f in (folder / "algorithms").glob("*.md"))
    algorithms.sort(key=lambda name: not name.endswith("/index.md"))
    pages = [name for name in (*FIRST, *between, *LAST) if name in there]
    config["nav"] = [{"Home": pages[0]}, {"Algorithms": algorithms}, *pages[1:]]
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Link arXiv numbers in prose and tables."""
    parts = _UNTOUCHED.split(html)
    parts[::2] = [
        _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text) for text in parts[::2]
    ]
    return "".join(parts)
