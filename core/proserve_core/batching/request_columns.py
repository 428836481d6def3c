"""All requests of a step as columns, residents first, each part in order of arrival.

What a policy does not ask for is not computed; what several rules of a policy ask for is computed once.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from proserve_core.batching import request_table as table
from proserve_core.batching.state import EngineState, RequestState

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


class RequestColumns:
    """One entry per request; seconds and tokens."""

    def __init__(self, state: EngineState) -> None:
        self.residents = len(state.requests.residents)
        """The first so many entries are residents, the others wait."""
        self._table, self._latency, self._now_s = state.requests, state.latency, state.now_s
        self._resume = state.resume
        self._rows = state.requests.rows()
        data = self._data = state.requests.columns(self._rows)
        self.arrival_s: Column = data[table.ARRIVAL]
        self.ttft_s: Column = data[table.TTFT]
        self.tpot_s: Column = data[table.TPOT]
        self.weight: Column = data[table.WEIGHT]
        self.token_gain: Column = data[table.TOKEN_GAIN]
        """Gain of each token after the first."""
        self.most: Column = data[table.MOST]
        """Tokens that the output can have."""
        self.emitted: Column = data[table.EMITTED]
        self.computed: Column = data[table.COMPUTED]
        """Tokens whose KV is on the device; cached prefix of one that waits."""
        self.prompt: Column = data[table.PROMPT]
        self.context: Column = self.prompt + self.emitted
        """Prompt and emitted tokens."""
        self.pending: Column = self.context - self.computed
        """Tokens to compute before the next token can be emitted; 1 for a decode."""

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, request_id: str) -> int:
        """The entry of a request."""
        return int((self._rows == self._table.row(request_id)).nonzero()[0][0])

    def request(self, place: int) -> RequestState:
        return self._table.at(self._rows[place])

    def requests(self, places: Index) -> list[RequestState]:
        """The requests of some entries."""
        return self._table.requests(self._rows.take(places))

    def notes(self, owner: object) -> Column:
        """What `owner` noted of each request, -1 for nothing."""
        return self._table.notes(self._rows, owner)

    def note(self, places: Index, values: Index | int) -> None:
        """To be found in `notes` from now on."""
        self._table.note(self._rows[places], values)

    def lazily(self, parts: Iterable[Index]) -> Iterator[RequestState]:
        """The requests of some entries, as far as they are read."""
        for places in parts:
            yield from map(self._table.at, self._rows[places].tolist())

    def weights(self) -> list[float]:
        """The weights that there are, the heaviest first."""
        heaviest_first: list[float] = np.unique(self.weight)[::-1].tolist()
        return heaviest_first

    @cached_property
    def everybody(self) -> Mask:
        return np.ones(len(self), dtype=np.bool_)

    @cached_property
    def resident(self) -> Mask:
        return np.arange(len(self)) < self.residents

    @cached_property
    def decode(self) -> Mask:
        """Residents that need one token to emit the next."""
        mask = np.zeros(len(self), dtype=np.bool_)
        residents = self.residents
        np.logical_and(self.pending[:residents] == 1, self.emitted[:residents], out=mask[:residents])
        return mask

    @cached_property
    def least_tpot_s(self) -> float:
        """Of the decodes, or of all if there is none."""
        tpot_s = self.tpot_s[: self.residents][self.decode[: self.residents]]
        return float((tpot_s if len(tpot_s) else self.tpot_s).min())

    @cached_property
    def slack_s(self) -> Column:
        """Time to the next token's deadline; negative when it is past."""
        return self.arrival_s + self.ttft_s + self.emitted * self.tpot_s - self._now_s

    @property
    def first_token_s(self) -> Column:
        """When the first token came; NaN if it has not."""
        first_s: Column = self._data[table.FIRST_TOKEN]
        return first_s

    @cached_property
    def first_token_slack_s(self) -> Column:
        """The same, with deadlines that count from the first token's real time once there is one."""
        from_first: Column = self.first_token_s + self.emitted * self.tpot_s - self._now_s
        return np.where(np.isnan(from_first), self.slack_s, from_first)

    @cached_property
    def next_gain(self) -> Column:
        """Gain of the next token."""
        return np.where(self.emitted > 0, self.token_gain, self._data[table.FIRST_GAIN])

    @cached_property
    def prefill_s(self) -> Column:
        """Marginal time of all that is to be computed before the next token, and of what comes back from the host for
        it; 0 for a decode."""
        prefill_s = self._prefill_s(self.computed)
        if self._resume is not None:
            prefill_s += self._resume.costs.block_s / self._resume.block_size * self._host_tokens
        prefill_s[self.decode] = 0.0
        return prefill_s

    @cached_property
    def recompute_s(self) -> Column:
        """The same if nothing came back from the host.

        For rules that go by the next token alone: who lost its blocks would come before all prompts, because it is
        back so soon, and take the blocks of the next one who does. Measured with `slide-batching` (docs/blocks.md).
        """
        if self._resume is None:
            return self.prefill_s
        return np.where(self.decode, 0.0, self._prefill_s(self.computed - self._host_tokens))

    @cached_property
    def next_token_s(self) -> Column:
        """Marginal time of all that is to be computed before the next token, that of a decode's token included, and
        as if nothing came back from the host."""
        latency = self._latency
        decode_s = latency.linear_token_s + latency.sequence_s + latency.context_s * self.computed
        return np.where(self.decode, decode_s, self.recompute_s)

    @cached_property
    def return_s(self) -> Column:
        """Of each resident: engine time to bring it back if it lost its blocks, flush and restore included."""
        residents = self._table.residents
        context = self.computed[: self.residents]
        copied = np.array([request.copied_blocks for request in residents], dtype=np.float64)
        copied_s, restored = 0.0 * copied, 0.0 * copied
        if self._resume is not None:
            flushed = np.array([request.flush_blocks for request in residents], dtype=np.float64)
            restored = np.minimum(copied * self._resume.block_size, context)
            copied_s = copied * self._resume.costs.block_s + flushed * self._resume.flush_block_s
        latency, rest = self._latency, context - restored
        attention = rest * (rest + 2 * restored)
        again_s: Column = latency.linear_token_s * rest + latency.attention_s * attention + latency.sequence_s
        return again_s + copied_s

    @cached_property
    def _host_tokens(self) -> Column:
        return self._table.host_tokens(self._rows)

    def _prefill_s(self, computed: Column) -> Column:
        """Marginal time of all tokens behind the first `computed` ones."""
        latency, pending = self._latency, self.context - computed
        attention = pending * (pending + 2 * computed)
        prefill_s: Column = latency.linear_token_s * pending + latency.attention_s * attention + latency.sequence_s
        return prefill_s
