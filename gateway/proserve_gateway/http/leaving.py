"""Whether a client has left, asked without reading.

Who pipelines more than is read ahead is not read from while a request of his runs, and a loop hears of a connection's
end only by reading. The kernel knows (Linux; elsewhere it knows of resets only).
"""

import select

_LEFT = getattr(select, "POLLRDHUP", 0)


def has_left(descriptor: int) -> bool:
    """Its end or a reset has arrived, behind whatever was not read yet."""
    poll = select.poll()
    poll.register(descriptor, _LEFT)
    return bool(poll.poll(0))
