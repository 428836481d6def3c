"""Who keeps a server waiting, and who goes first when there are too many."""

from proserve_gateway.http.waiting_connections import WaitingConnections


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_who_has_waited_longest_makes_room_whatever_for() -> None:
    clock = Clock()
    waiting: WaitingConnections[str] = WaitingConnections(clock)
    waiting.awaits_head("head")
    clock.now_s = 1.0
    waiting.idle("idle")
    assert waiting.longest() == "head"
    waiting.busy("head")
    assert waiting.longest() == "idle"


def test_others_make_room_for_a_connection_opened_in_the_same_moment() -> None:
    waiting: WaitingConnections[str] = WaitingConnections(Clock())
    waiting.awaits_head("opened")
    waiting.awaits_body("body")
    assert waiting.longest() == "body"
    waiting.idle("body")
    assert waiting.longest() == "body"
    waiting.busy("body")
    assert waiting.longest() == "opened"


def test_late_ones_are_found_and_a_head_counts_from_its_beginning() -> None:
    clock = Clock()
    waiting: WaitingConnections[str] = WaitingConnections(clock)
    waiting.idle("a")
    waiting.idle("b")
    clock.now_s = 5.0
    waiting.awaits_head("a")
    clock.now_s = 8.0
    waiting.awaits_head("a")
    assert waiting.late_idle(8.0) == ["b"]
    assert waiting.late_idle(8.5) == []
    assert waiting.late_heads(3.0) == ["a"]
    assert waiting.late_heads(3.5) == []
    assert not waiting.is_idle("a")
