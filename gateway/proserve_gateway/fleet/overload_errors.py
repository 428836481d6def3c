"""What a client is told when its request may not wait any longer: 429, and when the queue of its class has drained."""

from proserve_core.admission.overload import Refusal
from proserve_gateway.errors import ApiError

_WHY = {
    Refusal.QUEUE_TIME: "no engine had room for it within the time that its class may wait",
    Refusal.NO_GAIN: "its answer would come too late to be of use",
    Refusal.ROOM_FULL: "more requests wait than this gateway holds",
}


class OverloadedError(ApiError):
    """A request was not served because of overload."""

    def __init__(self, cause: Refusal, *, priority_class: str, retry_after_s: float) -> None:
        super().__init__(
            status=429,
            code="overloaded",
            error_type="requests",
            message=f"the request of class {priority_class} was refused ({cause}): {_WHY[cause]}; "
            f"try again in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )
        self.cause = cause
