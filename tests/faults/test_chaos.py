"""A short run of the chaos bench, its seed fixed: nothing that must be 0 is anything else."""

from pathlib import Path

import docker
import pytest

from bench import chaos, chaos_run
from tests.cluster import Cluster

pytestmark = pytest.mark.docker


def test_1_to_9_hold_through_a_short_chaos(tmp_path: Path, test_image: str, docker_client: docker.DockerClient) -> None:
    with Cluster(tmp_path, test_image, docker_client, **chaos.SETTINGS) as cluster:
        run = chaos_run.run(cluster, seconds=15, seed=7)
    assert not run.findings.by_kind, dict(run.findings.by_kind)
    assert run.harms and run.jobs
