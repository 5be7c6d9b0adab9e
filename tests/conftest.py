"""What the default run walks.

Every rule under every option, backend and dtype is some eight thousand tests. A core of rules, chosen so
that every mechanism is met, walks all of them; of the others' walks each run takes a fixed fifth. Where a
test costs many seconds, one case of it is in every run and the further ones are marked `more`. `pytest --all`
takes everything.
"""

import sys
from pathlib import Path
from zlib import crc32

import pytest

sys.path.insert(0, str(Path(__file__).parent))

WALKS = ("test_backends", "test_options", "test_drop_in", "test_torch_parity", "test_wrappers")
"""Test files, by the beginning of their names, that walk over all rules."""
CORE = {
    "sgd", "SGD", "sgd-nesterov", "adamw", "AdamW", "lion", "ranger", "adafactor",
    "own rule", "laden sgd", "laden adamw", "laden lion",
}  # fmt: skip
SHARE = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every combination and case, not a share")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all") or any("[" in argument for argument in config.args):
        return
    left_out = [item for item in items if is_left_out(item)]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


def is_left_out(item: pytest.Item) -> bool:
    """Whether it is a combination of a walk, or a further case, that another run takes."""
    if item.get_closest_marker("more"):
        return True
    if not item.path.stem.startswith(WALKS) or not hasattr(item, "callspec"):
        return False
    chosen = [v for v in item.callspec.params.values() if isinstance(v, str)]
    is_walk = len(item.callspec.params) > 1 and not CORE.intersection(chosen)
    return is_walk and bool(crc32(item.nodeid.encode()) % SHARE)
