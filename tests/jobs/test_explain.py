from datetime import UTC, datetime, timedelta

from jobs.scheduling.explain import Occupant, never_fits, why_waiting
from jobs.scheduling.room import ExecutorView, GpuDevice, Requirements, Room, occupy

GB = 1024**3
NOW = datetime(2026, 11, 24, 13, 0, tzinfo=UTC)
A100 = "NVIDIA A100-SXM4-40GB"


def executor(name: str, cores: int = 8, gb: int = 16, gpus: int = 0, closed: str = "", **labels: str) -> ExecutorView:
    devices = [GpuDevice(index, A100) for index in range(gpus)]
    rooms = [Room(cores * 1000, gb * GB, list(devices)) for _ in range(2)]
    return ExecutorView(name, name, *rooms, labels, closed)


def busy(view: ExecutorView, cores: int, gpus: int = 0, minutes: int | None = None) -> Occupant:
    held = view.free.gpus[:gpus]
    occupy(view.free, cores * 1000, GB, [gpu.index for gpu in held])
    return Occupant(cores * 1000, GB, held, NOW + timedelta(minutes=minutes) if minutes is not None else None)


def test_busy_gpus_are_counted_and_the_first_to_be_free_is_named() -> None:
    views = [executor(f"gpu-{number}", gpus=2) for number in range(3)]
    occupants = {view.id: [busy(view, 1, gpus=2, minutes=65 + n)] for n, view in enumerate(views)}
    assert why_waiting(Requirements(1000, GB, "A100", 2), views, occupants, NOW) == (
        "It needs 2 × A100; 3 executors have that, all busy; the first is free at the latest at 14:05 UTC."
    )


def test_room_is_there_when_enough_attempts_have_ended_not_when_the_first_has() -> None:
    view = executor("n1", cores=4)
    occupants = {"n1": [busy(view, 2, minutes=10), busy(view, 2, minutes=30)]}
    text = why_waiting(Requirements(3000, GB), [view], occupants, NOW)
    assert (
        text == "It needs 3 cores; 1 executor has that, but it is busy; the first is free at the latest at 13:30 UTC."
    )


def test_no_time_is_promised_while_what_is_in_the_way_has_not_started() -> None:
    view = executor("n1", cores=1)
    text = why_waiting(Requirements(1000, GB), [view], {"n1": [busy(view, 1)]}, NOW)
    assert text == "It needs 1 core; 1 executor has that, but it is busy."


def test_another_day_is_said_with_its_date() -> None:
    view = executor("n1", cores=1)
    text = why_waiting(Requirements(1000, GB), [view], {"n1": [busy(view, 1, minutes=24 * 60)]}, NOW)
    assert "at the latest at 2026-11-25 13:00 UTC" in text


def test_executors_that_take_no_jobs_are_named_with_the_reason() -> None:
    views = [executor("n1", closed="is lost"), executor("n2", closed="is closed to new jobs by an operator")]
    text = why_waiting(Requirements(1000, GB), views, {}, NOW)
    assert text == (
        "2 executors could fit it, but none takes jobs now: n1 is lost, n2 is closed to new jobs by an operator."
    )


def test_a_job_with_room_waits_for_the_next_pass() -> None:
    assert "next pass" in why_waiting(Requirements(1000, GB), [executor("n1")], {}, NOW)


def test_a_job_that_could_never_fit_is_told_what_it_lacks() -> None:
    views = [executor("n1", cores=8, gb=16, gpus=1), executor("n2", cores=4, gb=32, zone="eu")]
    assert never_fits(Requirements(8000, GB), views) == ""
    assert never_fits(Requirements(64000, GB), views) == "It needs 64 cores; the largest executor offers 8 cores."
    assert never_fits(Requirements(1000, 64 * GB), views) == "It needs 64 GB; the largest executor offers 32 GB."
    assert never_fits(Requirements(1, GB, "any", 2), views) == "It needs 2 × GPU; the most that one executor has is 1."
    assert never_fits(Requirements(1, GB, "H100", 1), views) == "It needs 1 × H100; no executor has one."
    assert never_fits(Requirements(8000, 32 * GB), views) == "No executor has all of this together: 8 cores, 32 GB."
    assert never_fits(Requirements(1, GB, labels={"disk": "ssd"}), views) == (
        "No executor has the label that it needs: disk=ssd."
    )
    assert never_fits(Requirements(8000, GB, labels={"zone": "eu"}), views) == (
        "It needs 8 cores; the largest executor with its labels offers 4 cores."
    )
    assert never_fits(Requirements(1, 1), []) == "No executor has registered yet; the job waits for one."
