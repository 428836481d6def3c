"""Of two documents that want what only one can have: which one has it.

Offline the first one in the files. In a cluster many hands write, and names decide nothing: who has a thing keeps it
whatever others ask for, and among those who have not the older object comes first, as in the Gateway API. Otherwise
anybody who may make a pool could take the traffic of another team's model by the name of a namespace.
"""

from collections.abc import Hashable, Iterable, Mapping

import msgspec

from proserve_core.resources.kinds import Reading

Claim = Hashable
"""What a document wants for itself."""

Identity = tuple[str, str, str]
"""Kind, namespace (empty for what belongs to the whole cluster) and name of a document."""

ANONYMOUS: Claim = "anonymous"


def model_claim(name: str) -> Claim:
    """To serve a model."""
    return ("model", name)


def key_claim(value: bytes) -> Claim:
    """To be who sends an API key."""
    return ("key", value)


def headroom_claim(percent: int) -> Claim:
    """To have so much of the engines kept free. Who has more has less, too."""
    return ("headroom", percent)


class Precedence(msgspec.Struct, frozen=True, kw_only=True):
    """Who comes first. Without any knowledge that is the order of the documents."""

    held: Mapping[Identity, frozenset[Claim]] = {}
    """What the last right version of each document has."""
    created: Mapping[Identity, str] = {}
    """`creationTimestamp` of each, whose texts are ordered as the times are."""

    def order(self, wanting: Iterable[tuple[Reading, Claim]]) -> list[Reading]:
        """Documents, the first to be given what it wants first."""

        def rank(wish: tuple[Reading, Claim]) -> tuple[bool, str]:
            reading, claim = wish
            identity = reading.kind.name, reading.namespace, str(reading.name)
            return claim not in self.held.get(identity, ()), self.created.get(identity, "")

        return [reading for reading, _ in sorted(wanting, key=rank)]
