"""The request that `proserve up` shows."""

import shlex

from proserve_cli.send_hint import sample_request
from resource_builders import engine_pool, keyed_tenant, parse, priority_class, secret, tenant

ROOT = "http://127.0.0.1:8000"
KEYED = parse(priority_class(), keyed_tenant("alice"), secret(alice="sk-alice"), engine_pool())


def test_on_a_screen_the_command_works_as_it_stands() -> None:
    title, _, command = sample_request(KEYED, ROOT, private=True).partition("\n")
    assert title == "send a request:"
    assert "authorization: Bearer sk-alice" in shlex.split(command)


def test_in_a_log_the_command_says_where_the_key_is_and_not_what_it_is() -> None:
    title, _, command = sample_request(KEYED, ROOT, private=False).partition("\n")
    assert title == "send a request (KEY: entry alice of Secret keys):"
    assert "authorization: Bearer KEY" in shlex.split(command)
    assert "sk-alice" not in title + command


def test_nobody_is_asked_for_a_key_where_none_is_needed() -> None:
    resources = parse(priority_class(), tenant(), engine_pool())
    for private in (True, False):
        hint = sample_request(resources, ROOT, private=private)
        assert "authorization" not in hint
        assert hint.startswith(f"send a request:\n  curl -N {ROOT}/v1/chat/completions ")
