"""Requests at some point of their life in a block ledger."""

from proserve_core.blocks import BlockLedger, Copy


def resident(ledger: BlockLedger, name: str, blocks: int, *, complete: int | None = None, worth: float = 0.0) -> None:
    """A request with `blocks` device blocks."""
    ledger.add(name)
    ledger.grow(name, blocks)
    ledger.complete(name, blocks if complete is None else complete)
    ledger.set_worth(name, worth)


def begin_offload(ledger: BlockLedger, name: str, blocks: int) -> Copy:
    copy, _ = ledger.start_offload(name, blocks)
    assert copy is not None
    return copy


def evicted(ledger: BlockLedger, name: str, blocks: int) -> list[tuple[str, int]]:
    """Who loses how many host blocks to the offload of `blocks` blocks."""
    _, evictions = ledger.start_offload(name, blocks)
    return [(eviction.holding.request_id, eviction.blocks) for eviction in evictions]


def on_host(ledger: BlockLedger, name: str, blocks: int) -> None:
    """A resident copies `blocks` blocks."""
    ledger.finish_offload(begin_offload(ledger, name, blocks))


def preempted(ledger: BlockLedger, name: str, *, host: int, worth: float = 0.0) -> None:
    """A request without device blocks and with `host` on the host."""
    resident(ledger, name, host, worth=worth)
    on_host(ledger, name, host)
    ledger.preempt(name)
