"""The account of a request that asks for several answers at once (`n`, or several prompts).

ProServe (section 3) defines gain for one sequence of tokens. Engines compute each choice as a sequence of its own, with
the request's class facts, so each is one here too: token i of a choice is due when token i of a request would be, and
earns what it would. The request's gain is the sum over its choices, and its objectives are attained when they are for
each. One sequence over all choices would give the second choice's first token the deadline of a second token, and 8
choices that come in step an eighth of their time per token.
"""

from collections.abc import Collection, Mapping

from proserve_core.gain import LossCause, RequestAccount
from proserve_core.objectives import ServiceTerms


class ChoicesAccount(RequestAccount):
    """Its sums are over all choices; each is judged by an account of its own."""

    __slots__ = ("_by_index", "_choices", "_complete")

    def __init__(self, terms: ServiceTerms, arrival_s: float, *, choices: int) -> None:
        super().__init__(terms, arrival_s)
        self._choices = choices
        self._by_index: dict[int, RequestAccount] = {}
        """Of choices that have a token."""
        self._complete = True
        """No choice was lost before its first token."""

    @property
    def accounts(self) -> Collection[RequestAccount]:
        """Of each choice that has a token."""
        return self._by_index.values()

    def tokens_at(self, at_s: float, count: int = 1) -> None:
        """`count` tokens came together and nobody says of which choices: each got as many as any other."""
        share, more = divmod(count, self._choices)
        for index in range(min(self._choices, count)):
            self.choice_at(at_s, index, share + (index < more))

    def choice_at(self, at_s: float, index: int, count: int) -> None:
        """Record that `count` tokens of one choice were emitted together at `at_s`."""
        if count <= 0:
            return
        choice = self._by_index.get(index)
        if choice is None:
            choice = self._by_index[index] = RequestAccount(self.terms, self.arrival_s)
        earned, lost = choice.earned, dict(choice.lost)
        choice.tokens_at(at_s, count)
        if self.first_s is None:
            self.first_s = at_s
        self.last_s = at_s
        self.tokens += count
        self.earned += choice.earned - earned
        self._lose_more(choice, lost)

    def give_up(self, cause: LossCause, expected_tokens: int, *, late_s: float | None = None) -> None:
        """Charge the tokens that will never come, up to an equal part of `expected_tokens` for each choice."""
        each = -(-expected_tokens // self._choices)
        for choice in self._by_index.values():
            lost = dict(choice.lost)
            choice.give_up(cause, each, late_s=late_s)
            self._lose_more(choice, lost)
        if (never := self._choices - len(self._by_index)) > 0:
            self._complete = False
            choice = RequestAccount(self.terms, self.arrival_s)
            choice.give_up(cause, each, late_s=late_s)
            for why, gain in choice.lost.items():
                self._lose(why, never * gain)

    def _lose_more(self, choice: RequestAccount, before: Mapping[LossCause, float]) -> None:
        """Take over what a choice has lost since `before`."""
        for cause, gain in choice.lost.items():
            if cause not in before or gain != before[cause]:
                self._lose(cause, gain - before.get(cause, 0.0))

    @property
    def slo_attained(self) -> bool:
        """False for a request that got no token or lost tokens for good."""
        return bool(self._by_index) and self._complete and all(each.slo_attained for each in self._by_index.values())
