import shutil
import sys
from collections.abc import Iterator

import docker
import pytest

from script.sample_image import _is_static, import_busybox

NAME = "workload-runner-test-sample:latest"


@pytest.fixture
def image(docker_client: docker.DockerClient) -> Iterator[str]:
    import_busybox(docker_client, NAME)
    yield NAME
    docker_client.images.remove(NAME, force=True)


def test_the_stand_in_image_has_a_shell_and_its_applets(docker_client: docker.DockerClient, image: str) -> None:
    output = docker_client.containers.run(image, ["sh", "-c", "echo a b | wc -w; touch /tmp/x && whoami"], remove=True)
    assert output == b"2\nroot\n"


def test_making_it_again_changes_nothing_and_making_it_anew_leaves_no_nameless_image(
    docker_client: docker.DockerClient, image: str
) -> None:
    made = docker_client.images.get(image)
    import_busybox(docker_client, image)
    assert docker_client.images.get(image).id == made.id
    docker_client.images.remove(image)
    docker_client.api.import_image_from_data(b"\0" * 1024, *image.split(":"))
    old = docker_client.images.get(image)
    import_busybox(docker_client, image)
    assert old.id not in [other.id for other in docker_client.images.list(all=True)]


def test_only_a_binary_without_a_loader_counts_as_static() -> None:
    assert _is_static(shutil.which("busybox") or "")
    assert not _is_static(sys.executable)
    assert not _is_static(__file__)
