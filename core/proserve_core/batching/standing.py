"""Where a request stands in a policy's order, and the figures that put it there."""

from collections.abc import Mapping

import msgspec

from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import Column, RequestColumns
from proserve_core.batching.state import RequestState


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the step that was planned last."""

    group: str
    """Part of the order that it is in."""
    rank: tuple[float, ...]
    """Of two requests in the same step, the one with the lower rank does not come later."""
    figures: dict[str, float]
    """What its place in the order comes from; times end in `_s`."""


class RankedStep(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy that works on columns leaves behind: arrays that it has made anyway."""

    columns: RequestColumns
    ranking: Ranking
    figures: Mapping[str, Column]

    def standing(self, request: RequestState) -> Standing:
        """Of a request of that step; before the plan is applied, because that changes the rows."""
        place = self.columns.place(request.id)
        number, groups, key = self.ranking.group_of(place)
        decode = bool(self.columns.decode[place])
        return Standing(
            group=groups[0] if decode else groups[-1],
            rank=(number, key),
            figures={
                "slack_s": float(self.columns.slack_s[place]),
                **{name: float(column[place]) for name, column in self.figures.items()},
            },
        )
