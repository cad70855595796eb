"""Messages survive the wire, and what does not make sense is refused by name."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import (
    AttemptFinished,
    AttemptRunning,
    Event,
    Gpu,
    Heartbeat,
    HeldAttempt,
    Hello,
    Keys,
    MalformedMessage,
    Message,
    StartAttempt,
    UnknownMessage,
    decode,
    encode,
)

HELLO = Hello(
    executor_id="node-1",
    name="node",
    address="10.0.0.1",
    cpu_millicores=2000,
    memory_bytes=4 * 1024**3,
    gpus=[Gpu(0, "GPU-1", "NVIDIA A100-SXM4-80GB", 80 * 1024**3)],
    labels={"zone": "eu"},
    last_command=7,
    held=[HeldAttempt("a-job", 2)],
)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
for told in (AttemptRunning, AttemptFinished):
    st.register_type_strategy(told, st.builds(told, settings=st.dictionaries(st.text(), json_values)))


@given(st.one_of([st.from_type(cls) for cls in get_args(Message)]))
def test_every_message_is_the_same_after_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


def test_nested_parts_come_back_as_what_they_were() -> None:
    hello = decode(encode(HELLO))
    assert isinstance(hello, Hello)
    assert hello.gpus[0].model == "NVIDIA A100-SXM4-80GB"
    assert hello.held == [HeldAttempt("a-job", 2)]


def test_the_wire_is_readable_json_with_a_version_and_a_kind() -> None:
    body = json.loads(encode(Heartbeat(executor_id="node-1", last_command=3)))
    assert (body["v"], body["kind"], body["last_command"]) == (1, "heartbeat", 3)


def test_fields_of_a_newer_version_are_ignored() -> None:
    body = json.loads(encode(HELLO)) | {"mood": "sunny"}
    body["gpus"][0]["colour"] = "green"
    assert decode(json.dumps(body).encode()) == HELLO


def test_fields_with_a_default_may_be_missing() -> None:
    body = json.loads(encode(HELLO))
    del body["labels"]
    hello = decode(json.dumps(body).encode())
    assert isinstance(hello, Hello)
    assert hello.labels == {}


def test_a_kind_of_a_newer_version_is_told_apart_from_rubbish() -> None:
    with pytest.raises(UnknownMessage, match="teleport"):
        decode(b'{"v": 9, "kind": "teleport"}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b'{"kind": []}',
        b'{"kind": "heartbeat"}',
        b'{"kind": "heartbeat", "executor_id": "x", "last_command": "seven"}',
        b'{"kind": "heartbeat", "executor_id": "x", "last_command": true}',
        b'{"kind": "heartbeat", "executor_id": "x", "last_command": 1, "held": [1]}',
        b'{"kind": "heartbeat", "executor_id": "x", "last_command": 1, "held": {}}',
    ],
)
def test_what_is_not_a_message_is_refused_as_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data)


def test_optional_fields_may_be_null() -> None:
    event = AttemptFinished(executor_id="x", job_id="j", attempt=1, reason="engine_error", exit_code=None)
    assert decode(encode(event)) == event


def test_a_command_is_built_with_all_it_needs() -> None:
    with pytest.raises(TypeError):
        StartAttempt(seq=1, job_id="j", attempt=1)  # type: ignore[call-arg]


def test_keys_take_the_prefix_and_the_seed_s_log_key_has_none_by_default() -> None:
    assert Keys().job_logs("J") == "job_logs:J"
    assert Keys("blue:").commands("node-1") == "blue:executor:node-1:commands"
    assert Keys("blue:").events == "blue:events"


def test_kinds_are_distinct() -> None:
    kinds: list[Any] = [cls.kind for cls in get_args(Message)]
    assert len(kinds) == len(set(kinds))
    assert {cls.kind for cls in get_args(Event)} < set(kinds)
