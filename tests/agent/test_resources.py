"""GPUs from recorded output of nvidia-smi; the node's address."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import resources
from agent.protocol import Gpu

TWO_MODELS = """\
0, GPU-5a1f0c3e-8a4d-9b9e-6f0e-3f2a7c1d9e11, NVIDIA A100-SXM4-40GB, 40960
1, GPU-0f7b6a52-11c2-4c1d-8d0a-8f1f3f7f6b22, Tesla T4, 15360
"""
MIG_PARENT = "0, GPU-8c9e5b1a-4d3e-2f1a-b0c9-d8e7f6a5b4c3, NVIDIA H100 80GB HBM3, [N/A]\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)

FakeSmi = Callable[..., None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    """Puts a stand-in on PATH that prints what a real one printed."""

    def install(output: str, exit_code: int = 0) -> None:
        (tmp_path / "output").write_text(output)
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/output\nexit {exit_code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


async def test_each_gpu_is_found_with_its_model_and_memory(nvidia_smi: FakeSmi) -> None:
    nvidia_smi(TWO_MODELS)
    assert await resources.detect_gpus() == [
        Gpu(0, "GPU-5a1f0c3e-8a4d-9b9e-6f0e-3f2a7c1d9e11", "NVIDIA A100-SXM4-40GB", 40960 * 1024**2),
        Gpu(1, "GPU-0f7b6a52-11c2-4c1d-8d0a-8f1f3f7f6b22", "Tesla T4", 15360 * 1024**2),
    ]


async def test_memory_that_it_does_not_know_counts_as_nothing(nvidia_smi: FakeSmi) -> None:
    nvidia_smi(MIG_PARENT)
    assert [gpu.memory_bytes for gpu in await resources.detect_gpus()] == [0]


async def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await resources.detect_gpus() == []


async def test_a_failing_nvidia_smi_is_logged_and_means_no_gpus(
    nvidia_smi: FakeSmi, caplog: pytest.LogCaptureFixture
) -> None:
    nvidia_smi(NO_DRIVER, exit_code=9)
    assert await resources.detect_gpus() == []
    assert "couldn't communicate with the NVIDIA driver" in caplog.text


async def test_a_sample_says_how_busy_each_gpu_is(nvidia_smi: FakeSmi) -> None:
    nvidia_smi("0, 87, 30211\n1, [N/A], [N/A]\n")
    sample = await resources.sample(3, [Gpu(0, "GPU-a", "T4", 1)])
    assert sample["gpus"] == [
        {"index": 0, "percent": 87.0, "memory_bytes": 30211 * 1024**2},
        {"index": 1, "percent": None, "memory_bytes": 0},
    ]
    assert sample["held"] == 3


def test_the_address_is_the_configured_one_or_the_one_towards_redis() -> None:
    assert resources.address("10.1.2.3", "redis://localhost:6379/0") == "10.1.2.3"
    assert resources.address("", "redis://127.0.0.1:6379/0") == "127.0.0.1"
    assert resources.address("", "unix:///run/redis.sock") == "127.0.0.1"
    assert resources.address("", "redis://no-such-host.invalid:6379/0") == ""


def test_kills_for_want_of_memory_are_counted_where_the_kernel_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "VMSTAT", tmp_path / "vmstat")
    assert resources.oom_kills() == 0, "no such file"
    resources.VMSTAT.write_text("drop_slab 0\noom_kill 207\nnuma_hit 1\n")
    assert resources.oom_kills() == 207
    resources.VMSTAT.write_text("nr_free_pages 5\n")
    assert resources.oom_kills() == 0


async def test_the_use_of_a_jobs_gpus_is_their_average_and_their_memory_together(nvidia_smi: FakeSmi) -> None:
    nvidia_smi("0, 80, 1000\n1, 40, 500\n2, 0, 3\n")
    monitor = resources.GpuMonitor()
    assert monitor.latest([0, 1]) is None, "nvidia-smi is asked beside whoever wants it"
    async with asyncio.timeout(10):
        while (use := monitor.latest([0, 1])) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert use == (60.0, 1500 * resources.MIB)
    assert monitor.latest([7]) is None
