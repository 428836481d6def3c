"""Random numbers without a source of randomness: a hash of the request's id.

The same request gets the same number wherever and however often it is asked for, so policies that draw are as
deterministic as the others, keep no state, and gateways that share nothing draw independently of each other.
"""

from hashlib import blake2b


def draw(seed: int, request_id: str, number: int) -> int:
    """The request's draw `number` under `seed`: an integer below 2**64, evenly spread."""
    return int.from_bytes(blake2b(f"{seed}/{number}/{request_id}".encode(), digest_size=8).digest())
