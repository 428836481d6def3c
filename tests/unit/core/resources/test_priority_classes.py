"""PriorityClass documents into classes, and the rules between classes."""

import pytest

from proserve_core.objectives import Headroom, HeadroomMode, Overload, OverloadAction
from resource_builders import errors_of, parse, priority_class


def test_class_with_all_fields_is_read() -> None:
    resources = parse(
        priority_class(
            "high",
            weight=4,
            objectives={"timeToFirstToken": "500ms", "timePerOutputToken": "40ms"},
            gain={"firstToken": 10, "outputToken": 2},
            headroom={"percent": 20, "mode": "Reserve"},
            overload={"action": "Degrade", "maxQueueTime": "2s", "className": "low"},
        ),
        priority_class("low"),
    )
    high = resources.priority_class("high")
    assert (high.weight, high.first_token_gain, high.output_token_gain) == (4, 10, 2)
    assert (high.objectives.ttft_s, high.objectives.tpot_s) == (0.5, 0.04)
    assert high.headroom == Headroom(percent=20, mode=HeadroomMode.RESERVE)
    assert high.overload == Overload(action=OverloadAction.DEGRADE, max_queue_time_s=2.0, degrade_to="low")


def test_optional_fields_have_defaults() -> None:
    (item,) = parse(priority_class(gain={}, overload={})).priority_classes
    assert (item.first_token_gain, item.output_token_gain) == (1, 1)
    assert item.headroom is None
    assert item.overload == Overload() == parse(priority_class()).priority_classes[0].overload
    (item,) = parse(priority_class(headroom={"percent": 5})).priority_classes
    assert item.headroom == Headroom(percent=5, mode=HeadroomMode.ENTITLEMENT)


@pytest.mark.parametrize(
    ("overload", "path"),
    [
        ({"action": "Degrade"}, "spec.overload.className: is missing with action Degrade"),
        ({"className": "high"}, "spec.overload.className: means nothing with action Queue"),
        ({"action": "Shed", "className": "high"}, "spec.overload.className: means nothing with action Shed"),
        ({"action": "Shed", "maxQueueTime": "1s"}, "spec.overload.maxQueueTime: means nothing with action Shed"),
        ({"action": "queue"}, "did you mean 'Queue'?"),
    ],
)
def test_overload_fields_fit_the_action(overload: object, path: str) -> None:
    (error,) = errors_of(priority_class(overload=overload))
    assert path in error


def degrading(name: str, to: str, weight: int = 1) -> object:
    return priority_class(name, weight=weight, overload={"action": "Degrade", "className": to})


def test_degrade_target_exists() -> None:
    (error,) = errors_of(degrading("high", "lwo"), priority_class("low"))
    assert "spec.overload.className: there is no PriorityClass 'lwo'; did you mean 'low'?" in error


def test_degrade_target_is_not_heavier() -> None:
    (error,) = errors_of(degrading("low", "high"), priority_class("high", weight=2))
    assert "'high' is heavier (2) than this class (1)" in error


def test_degrading_in_a_circle_is_refused_for_each_class_of_it() -> None:
    errors = errors_of(degrading("a", "b"), degrading("b", "c"), degrading("c", "b"))
    assert [error.split("; ")[0] for error in errors] == [
        "test#2 (PriorityClass b): spec.overload.className: degrades in a circle: b -> c -> b",
        "test#3 (PriorityClass c): spec.overload.className: degrades in a circle: c -> b -> c",
    ]


def test_degrading_to_itself_is_a_circle() -> None:
    (error,) = errors_of(degrading("a", "a"))
    assert "degrades in a circle: a -> a" in error


def test_headroom_of_all_classes_fits_into_the_engine() -> None:
    classes = [priority_class(name, headroom={"percent": percent}) for name, percent in (("a", 60), ("b", 40))]
    assert errors_of(*classes) == []
    (error,) = errors_of(*classes, priority_class("c", headroom={"percent": 1}))
    assert "the headroom of all classes adds up to 101 (a 60, b 40, c 1)" in error


def test_shares_of_simulated_requests_add_up_to_one() -> None:
    assert parse(priority_class("a", share="0.25"), priority_class("b", share=".75")).class_shares == {
        "a": 0.25,
        "b": 0.75,
    }
    assert parse(priority_class("a")).class_shares == {}
    (error,) = errors_of(priority_class("a", share="0.5"), priority_class("b", share="0.6"))
    assert "add up to 1.1" in error
    rounded = [priority_class(name, share="0.33") for name in ("a", "b", "c")]
    assert set(parse(*rounded).class_shares.values()) == {0.33}
    (error,) = errors_of(priority_class("a", share="0.5"), priority_class("b", share="0.48"))
    assert "add up to 0.98; let them add up to 1" in error
    (error,) = errors_of(priority_class("a", share="1"), priority_class("b"))
    assert "(PriorityClass b): metadata.annotations[proserve.dev/share]: is missing" in error


@pytest.mark.parametrize("share", ["0", "0.0", "1.5", "-0.5", "half", "", "nan", "1e-1"])
def test_share_is_a_decimal_up_to_one(share: str) -> None:
    data = priority_class()
    data["metadata"]["annotations"] = {"proserve.dev/share": share}
    (error,) = errors_of(data)
    assert "expected a decimal above 0 and at most 1" in error


def test_two_classes_of_one_name_are_refused() -> None:
    (error,) = errors_of(priority_class("a"), priority_class("a"))
    assert error.startswith("test#2 (PriorityClass a): metadata.name: 'a' is there twice, first in test#1 ")
