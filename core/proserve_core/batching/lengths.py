"""How many tokens a request will still emit: output lengths, learned online for each kind of request.

Hazard tables (`output_bins`): of all tokens emitted as the n-th of an output (exposure), some were the last one
(events); events over exposure is the chance that an output ends there. Requests that are still running count with what
they have emitted, so a table is unbiased from the first second on, although short outputs end first.

There is a table of counts for each of these, from the general to the particular, and the answer for a request comes
from the chain of those that it belongs to (`hazards`):

- all requests;
- those with a prompt of like length: bands that double;
- of these, those of the same class that ask for a like number of tokens at most (`max_tokens`);
- those of the same client, and of these those in the band;
- of these, those whose prompts begin alike (once a prefix is seen for the second time).

What a request does not tell, such as its client, its chain leaves out. Old outputs are forgotten: a table of clients or
prefixes remembers about its last `MEMORY` outputs, so that a sudden change is followed, the general ones `LONG_MEMORY`.

Memory is bounded (`MAX_TABLES`, `MAX_PROFILES`): whoever was not seen for longest is forgotten. So is the time of one
`refresh`: answers are worked out for a part of the requests at a time.
"""

import numpy as np

from proserve_core.batching.hazards import general, of_kind, of_sender
from proserve_core.batching.length_counts import LengthCounts, TableCounts
from proserve_core.batching.output_bins import (
    BINS,
    WIDTHS,
    Column,
    Index,
    Table,
    last_bin,
    locate,
    passed,
    passed_by_one,
    survival,
)
from proserve_core.batching.recent_slots import RecentSlots
from proserve_core.batching.state import RequestState

BAND_EDGES = np.array([256, 512, 1024, 2048, 4096, 8192, 16384])
"""Prompt tokens at which the next band begins."""
MEMORY, LONG_MEMORY = 100, 1000
MAX_TABLES = 4096
MAX_PROFILES = 1024
MAX_PREFIXES = 4096
"""Prefixes seen once that are remembered."""
REFRESH_S = 1.0
_PART = 64
"""Profiles whose answers are worked out at a time."""

TableKey = tuple[str | int, ...]
"""What the requests of a table have in common; its first part says which kind of table it is."""
_NOTHING: TableKey = ("nothing",)
_ALL: TableKey = ("all",)
_GENERAL = frozenset({"all", "band", "asked"})
_LINKS = 6
"""Of the longest chain: all, band, class, client, client in the band, prefix."""
_KIND_LINKS = 2


def band_of(prompt_tokens: int) -> int:
    """Band of a prompt."""
    return int(np.searchsorted(BAND_EDGES, prompt_tokens, side="right"))


class LengthTable:
    """Learns from tokens and ends, answers for columns of requests.

    A request's kind is known by a number, its profile: `profile` gives it, once for each request that arrives, and
    `left` takes it back. Answers change only with `refresh`: until then a profile that `profile` gives to a kind new to
    the table has the answers of whoever had its row before, so refresh before asking (`LengthObserver.observe` does).
    """

    def __init__(self, counts: LengthCounts | None = None) -> None:
        """Start from what was learned earlier, or from nothing."""
        self._tables = RecentSlots[TableKey](MAX_TABLES)
        self._events, self._exposure = np.zeros((64, BINS)), np.zeros((64, BINS))
        self._keep = np.zeros(64)
        """Share of a table's counts that is left when one more output ends."""
        self._counted = np.zeros(64, dtype=np.bool_)
        """Tables that anything was ever counted in."""
        self._profiles = RecentSlots[tuple[TableKey, ...]](MAX_PROFILES)
        self._chains = np.zeros((0, _LINKS), dtype=np.intp)
        """By profile: slots of its tables; links that it has not point to a table without counts."""
        self._prefixes = RecentSlots[TableKey](MAX_PREFIXES)
        self._answers = np.empty((0, BINS, 4))
        """By profile and bin, side by side because they are looked up together: log survival, log stay, tail, beyond
        (`Survival`)."""
        self._whole = np.empty(0)
        """Expected length of an output from its first token on."""
        self._unanswered: set[int] = set()
        self._to_answer: list[int] = []
        for key in (_NOTHING, _ALL):
            self._tables.use(self._table(key))
        for table in counts.tables if counts is not None else ():
            slot = self._table(tuple(table.key))
            self._events[slot], self._exposure[slot] = table.dense()
            self._counted[slot] = True
        self.finished = int(self._events[1].sum())
        self._refreshed_finished = self.finished
        self._refreshed_s = -np.inf

    def counts(self) -> LengthCounts:
        """Everything learned so far."""
        return LengthCounts(
            tables=[
                TableCounts.sparse(key, self._events[slot], self._exposure[slot])
                for key, slot in self._tables.items()
                if self._exposure[slot].any()
            ]
        )

    def profile(self, request: RequestState) -> int:
        """The profile of a request that arrives."""
        keys = self._keys(request)
        row = self._profiles.slot(keys)
        if row is None:
            row, previous = self._profiles.give(keys)
            if previous is not None:
                for slot in self._chains[row].tolist():
                    self._tables.leave(slot)
            if row >= len(self._chains):
                self._grow_profiles()
            slots = [self._table(key) for key in keys]
            self._chains[row] = slots + [0] * (_LINKS - len(slots))
            for slot in self._chains[row].tolist():
                self._tables.use(slot)
        if not self._profiles.users(row):
            self._unanswered.add(row)
        self._profiles.use(row)
        return row

    def left(self, profile: int) -> None:
        """A request with this profile has left."""
        self._profiles.leave(profile)

    def saw_tokens(self, profiles: Index, since: Column, until: Column) -> None:
        """Requests have gone from `since` to `until` emitted tokens."""
        # Each has gone through few bins. A product of matrices would have BLAS start its threads, which costs more.
        request, bins, passed_tokens = passed(since, until)
        chains = self._chains[profiles[request]]
        present = np.bincount(chains.ravel()) > 0
        tables = present.nonzero()[0]
        cells = (present.cumsum() - 1)[chains] * BINS + bins[:, None]
        tokens = np.repeat(passed_tokens, _LINKS)
        self._exposure[tables] += np.bincount(cells.ravel(), tokens, len(tables) * BINS).reshape(-1, BINS)
        self._exposure[0] = 0.0
        self._counted[tables[tables > 0]] = True

    def saw_more(self, profile: int, since: int, until: int) -> None:
        """`saw_tokens` of one request, without the cost of columns."""
        if since == until:
            return
        first, tokens = passed_by_one(min(since, until), max(since, until))
        if until < since:
            tokens = -tokens
        for slot in self._chains[profile].tolist():
            if slot:
                self._exposure[slot, first : first + len(tokens)] += tokens
                self._counted[slot] = True

    def saw_end(self, profile: int, emitted: int) -> None:
        """An output ended after `emitted` tokens. An output that was cut off from outside is none: do not report it."""
        if emitted <= 0:
            return
        self.finished += 1
        tables = self._chains[profile]
        tables = tables[tables > 0]
        keep = self._keep[tables, None]
        self._events[tables] *= keep
        self._exposure[tables] *= keep
        self._events[tables, last_bin(emitted)] += 1
        self._counted[tables] = True

    def due(self, now_s: float) -> bool:
        """Whether all answers should be brought up to date: each second, and sooner while there is little knowledge."""
        return not self._to_answer and (
            now_s - self._refreshed_s >= REFRESH_S or self.finished > 1.5 * self._refreshed_finished + 5
        )

    def refresh(self, now_s: float) -> None:
        """Bring answers up to date: of new profiles at once, of the others a part at a time, when they are due."""
        if self.due(now_s):
            self._refreshed_s, self._refreshed_finished = now_s, self.finished
            self._to_answer = self._profiles.in_use()
        part, self._to_answer = self._to_answer[:_PART], self._to_answer[_PART:]
        rows = self._unanswered.union(part)
        if rows:
            self._unanswered.clear()
            self._answer(np.array(sorted(rows), dtype=np.intp))

    def expected_rest(self, profiles: Index, emitted: Column, skipped: Column | None = None) -> Column:
        """Expected tokens after the next `skipped` ones (default: none), for requests that have emitted `emitted`.

        With S the survival function it is sum over i >= emitted + skipped of S(i) / S(emitted).
        """
        at = emitted if skipped is None else emitted + skipped
        bins, inside = locate(at)
        log_survival, log_stay, tail, beyond = self._in_bins(profiles, bins)
        rest: Column = tail + beyond * np.exp((WIDTHS[bins] - inside) * log_stay)
        if skipped is None:
            return rest
        log_reached: Column = log_survival + inside * log_stay
        started = emitted.nonzero()[0]
        if len(started):
            profiles = profiles[started]
            bins, inside = locate(emitted[started])
            log_survival, log_stay, _, _ = self._in_bins(profiles, bins)
            log_reached[started] = log_reached[started] - log_survival - inside * log_stay
        reached: Column = np.exp(log_reached) * rest
        return reached

    def _in_bins(self, profiles: Index, bins: Index) -> Table:
        """Answers by profile and bin: four rows, `_answers` has their order."""
        # take, because indexing is ten times slower where each index stands for several numbers.
        return self._answers.reshape(-1, 4).take(profiles * BINS + bins, axis=0, mode="clip").T

    def expected_length(self, profiles: Index) -> Column:
        """Expected tokens of requests that have emitted none: `expected_rest` of 0, looked up."""
        lengths: Column = self._whole[profiles]
        return lengths

    def _keys(self, request: RequestState) -> tuple[TableKey, ...]:
        """The tables that a request belongs to, the general ones first."""
        clues, band = request.clues, band_of(request.prompt_tokens)
        asked = 0 if clues.max_tokens is None else clues.max_tokens.bit_length()
        keys: list[TableKey] = [_ALL, ("band", band), ("asked", band, request.terms.priority_class, asked)]
        if clues.client:
            keys += [("client", clues.client), ("client-band", clues.client, band)]
        if clues.prefix:
            prefix: TableKey = ("prefix", clues.client, band, clues.prefix)
            if self._prefixes.slot(prefix) is not None:
                keys.append(prefix)
            else:
                self._prefixes.give(prefix)
        return tuple(keys)

    def _table(self, key: TableKey) -> int:
        """Slot of a table of counts."""
        slot = self._tables.slot(key)
        if slot is None:
            slot, _ = self._tables.give(key)
            if slot >= len(self._keep):
                self._events, self._exposure = _taller(self._events), _taller(self._exposure)
                self._keep = np.append(self._keep, self._keep)
                self._counted = np.append(self._counted, self._counted)
            self._events[slot] = self._exposure[slot] = 0.0
            self._counted[slot] = False
            self._keep[slot] = 1 - 1 / (LONG_MEMORY if key[0] in _GENERAL else MEMORY)
        return slot

    def _grow_profiles(self) -> None:
        rows = max(64, 2 * len(self._chains))
        chains = np.zeros((rows, _LINKS), dtype=np.intp)
        chains[: len(self._chains)] = self._chains
        self._chains = chains
        answers = np.zeros((rows, BINS, 4))
        answers[: len(self._answers)] = self._answers
        self._answers = answers
        self._whole = np.append(self._whole, np.zeros(rows - len(self._whole)))

    def _answer(self, rows: Index) -> None:
        # A table without counts adds nothing, so profiles that differ only in such have one answer: most of those that
        # are not answered yet, and of requests whose prefix has not run so far.
        chains = self._chains[rows]
        places: dict[tuple[int, ...], int] = {}
        counted = map(tuple, np.where(self._counted[chains], chains, 0).tolist())
        answer_of = [places.setdefault(chain, len(places)) for chain in counted]
        chains = np.array(list(places), dtype=np.intp)
        hazard = np.repeat(general(self._events[1], self._exposure[1])[None], len(chains), axis=0)
        for link in range(1, _LINKS):
            tables = chains[:, link]
            if tables.any():
                lean = of_kind if link <= _KIND_LINKS else of_sender
                hazard = lean(hazard, self._events[tables], np.maximum(self._exposure[tables], 0.0))
        answer = survival(hazard)
        answers = np.stack((answer.log_survival, answer.log_stay, answer.tail, answer.beyond), axis=-1)
        self._answers[rows] = answers[answer_of]
        self._whole[rows] = self.expected_rest(rows, np.zeros(len(rows)))


def _taller(table: Table) -> Table:
    """The same with room for twice as many rows."""
    larger = np.zeros((2 * len(table), BINS))
    larger[: len(table)] = table
    return larger
