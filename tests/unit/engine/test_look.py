"""Files that may be replaced are read again now and then."""

from proserve_engine.look import Look


def test_files_are_read_again_once_a_second_however_often_they_are_used() -> None:
    now_s = 0.0
    look = Look(lambda: now_s)
    read_s = []
    while now_s < 4.0:
        if look.due():
            read_s.append(now_s)
        now_s += 0.25
    assert read_s == [1.0, 2.0, 3.0]
    now_s = 100.5
    assert (look.due(), look.due()) == (True, False)
