"""Tables hold as long as what they were built from does, and are built again when it does not."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import thalweg
from thalweg.engine import optimizer as engine


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often tables were built, as the length of a list."""
    times: list[int] = []
    original = engine.Preparation.plan

    def counted(self):
        times.append(1)
        return original(self)

    monkeypatch.setattr(engine.Preparation, "plan", counted)
    return times


def weights(count: int, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(5, 3, generator=generator)) for _ in range(count)]


def steps(ours, theirs, sets, count):
    """Steps in which only the tensors of one set have a gradient, set after set."""
    for step in range(count):
        chosen = sets[step % len(sets)]
        for i, (p, q) in enumerate(zip(ours[0], theirs[0], strict=True)):
            p.grad = torch.full_like(p, 0.1 * (i + 1) - 0.3 * step) if i in chosen else None
            q.grad = None if p.grad is None else p.grad.clone()
        ours[1].step()
        theirs[1].step()


@pytest.mark.parametrize("options", [{}, {"fused": False, "foreach": False}])
def test_gradients_that_come_and_go_find_their_tables_again(built, options) -> None:
    p, q = weights(9), weights(9)
    ours, theirs = thalweg.AdamW(p, lr=0.1, **options), torch.optim.AdamW(q, lr=0.1)
    sets = [{0, 1, 2, 3}, {2, 3, 4, 5, 8}, {0, 6, 7, 8}]
    steps((p, ours), (q, theirs), sets, 9)
    before = len(built)
    steps((p, ours), (q, theirs), sets, 12)
    assert len(built) == before
    for a, b in zip(p, q, strict=True):
        torch.testing.assert_close(a, b)
        assert float(ours.state[a]["step"]) == float(theirs.state[b]["step"])


def test_many_sets_are_not_all_kept(built) -> None:
    p, q = weights(12), weights(12)
    ours, theirs = thalweg.SGD(p, lr=0.1, momentum=0.9), torch.optim.SGD(q, lr=0.1, momentum=0.9)
    steps((p, ours), (q, theirs), [{i, (i + 1) % 12} for i in range(12)], 48)
    assert len(ours._plans.by_set) <= ours._plans.LIMIT
    for a, b in zip(p, q, strict=True):
        torch.testing.assert_close(a, b)


def test_a_change_that_is_no_other_set_drops_every_table(built) -> None:
    p, q = weights(4), weights(4)
    ours, theirs = thalweg.AdamW(p, lr=0.1), torch.optim.AdamW(q, lr=0.1)
    sets = [{0, 1}, {2, 3}]
    steps((p, ours), (q, theirs), sets, 6)
    for x, o in ((p[0], ours), (q[0], theirs)):
        x.data = x.data.clone() + 1.0
        o.state[x]["exp_avg"] = torch.ones(5, 3)
    steps((p, ours), (q, theirs), sets, 4)
    for a, b in zip(p, q, strict=True):
        torch.testing.assert_close(a, b)
    assert {id(b.params[0]) for r in ours._plans.by_set.values() for b in r.watch.blocks} == {
        id(p[0]), id(p[2]),
    }  # fmt: skip


def test_slots_share_a_buffer_and_its_version() -> None:
    p = weights(3)
    optimizer = thalweg.AdamW(p, lr=0.1)
    for x in p:
        x.grad = torch.ones_like(x)
    optimizer.step()
    slots = [optimizer.state[x]["exp_avg"] for x in p]
    assert len({x.untyped_storage().data_ptr() for x in slots}) == 1
    assert all(x.data_ptr() % 64 == slots[0].data_ptr() % 64 for x in slots)
    before = [x._version for x in slots]
    optimizer.step()
    assert all(x._version > v for x, v in zip(slots, before, strict=True))


def test_a_buffer_survives_copies_and_files() -> None:
    p = weights(3)
    optimizer = thalweg.AdamW(p, lr=0.1)
    for x in p:
        x.grad = torch.ones_like(x)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert file.tell() < 20_000  # one buffer, written once
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    q = copy.deepcopy(p)
    other = thalweg.AdamW(q, lr=0.1)
    other.load_state_dict(loaded)
    twin_p, twin = copy.deepcopy((p, optimizer))
    for params, o in ((p, optimizer), (q, other), (twin_p, twin)):
        for x in params:
            x.grad = torch.full_like(x, 0.5)
        o.step()
        o.step()
    for a, b, c in zip(p, q, twin_p, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_slots_of_channels_last_weights_lie_as_the_weights_do() -> None:
    p = torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    optimizer = thalweg.Lion([p], lr=0.1)
    p.grad = torch.randn_like(p)
    optimizer.step()
    slot = optimizer.state[p]["exp_avg"]
    assert slot.stride() == p.stride()
    torch.testing.assert_close(slot, 0.01 * p.grad)


def test_a_count_goes_on_beyond_what_float32_counts() -> None:
    (p,) = weights(1)
    optimizer = thalweg.AdamW([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    start = 2**24 - 2
    optimizer.state[p]["step"].fill_(2**23 - 2)  # in place: the tables stay
    optimizer.step()
    for _ in range(3):
        optimizer.step()
    assert optimizer.state[p]["step"].dtype == torch.float64
    optimizer.state[p]["step"].fill_(start)
    for i in range(4):
        optimizer.step()
        assert float(optimizer.state[p]["step"]) == start + i + 1
