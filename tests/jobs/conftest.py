"""A leading scheduler and a node played by hand, for the tests of this package."""

import pytest
import redis

from jobs.scheduler import Scheduler
from tests.jobs.node import Node
from tests.jobs.passes import Clock, new_leader, settle


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leader(redis_client: redis.Redis, clock: Clock) -> Scheduler:
    return new_leader(clock)


@pytest.fixture
def node(redis_client: redis.Redis, leader: Scheduler) -> Node:
    node = Node(redis_client)
    node.hello()
    settle(leader)
    return node
