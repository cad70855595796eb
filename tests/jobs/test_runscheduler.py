"""The scheduler as a process of its own, or several, over a database and a Redis of their own."""

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from agent.protocol import FIELD, Hello, Keys, PassRequest, encode
from tests.cluster import wait_for
from tests.parts import free_port, start_redis, write_database

ROOT = Path(__file__).resolve().parent.parent.parent


class Schedulers:
    """Starts schedulers; the test asks the database itself, read-only, what they wrote."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.directory = directory
        self.redis_port = free_port()
        self.redis = redis.Redis(port=self.redis_port)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.redis_process: subprocess.Popen[bytes] | None = None
        self.env = {
            **os.environ,
            "VAR_DIR": str(directory),
            "LOG_DIR": str(directory),
            "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "HEARTBEAT_INTERVAL": "60",
            "JOB_POLL_INTERVAL": "1",
            "LEASE_SECONDS": "3",
            **env,
        }

    def start_redis(self) -> None:
        self.redis_process = start_redis(self.directory, self.redis_port)

    def stop_redis(self) -> None:
        assert self.redis_process is not None
        self.redis_process.kill()
        self.redis_process.wait()

    def migrate(self) -> None:
        self.manage("migrate", "-v0", "--skip-checks").check_returncode()

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60)

    def start(self) -> subprocess.Popen[bytes]:
        output = (self.directory / f"{len(self.processes)}.out").open("wb")
        command = [sys.executable, "manage.py", "runscheduler"]
        process = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=output, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def output(self, number: int) -> str:
        return (self.directory / f"{number}.out").read_text()

    def says(self, number: int, text: str) -> None:
        def said() -> bool:
            assert self.processes[number].poll() is None or text in self.output(number), self.output(number)
            return text in self.output(number)

        wait_for(f"scheduler {number} to say {text!r}", said, timeout=20)

    def hello(self, executor_id: str) -> None:
        message = Hello(
            executor_id=executor_id,
            name=executor_id,
            address="",
            cpu_millicores=4000,
            memory_bytes=2**33,
            last_command=0,
        )
        self.redis.xadd(Keys().events, {FIELD: encode(message)})

    def ask(self) -> None:
        """Has whoever leads make a pass, and waits for its answer."""
        key = Keys().reply("test")
        self.redis.xadd(Keys().events, {FIELD: encode(PassRequest(reply_to=key))})
        assert self.redis.blpop([key], timeout=20), "no scheduler answered"

    def lease(self) -> tuple[str, int]:
        with sqlite3.connect(self.directory / "db.sqlite3") as database:
            row: tuple[str, int] = database.execute("SELECT holder, term FROM jobs_schedulerlease").fetchone()
            return row

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        if self.redis_process is not None:
            self.stop_redis()


@pytest.fixture
def schedulers(tmp_path: Path) -> Iterator[Schedulers]:
    schedulers = Schedulers(tmp_path)
    schedulers.start_redis()
    write_database(tmp_path / "db.sqlite3")
    yield schedulers
    schedulers.close()


@pytest.fixture
def archiving_job(schedulers: Schedulers) -> str:
    """A job whose complete log waits in Redis for the archive, as the agent leaves it."""
    job_id = "0190a000-0000-7000-8000-000000000001"
    submitted = "submit(parse_submission({'docker_image': 'alpine'}))"
    code = f"from jobs.services import submit; from jobs.submission import parse_submission; job = {submitted}"
    made = schedulers.manage("shell", "-v0", "-c", f"{code}; job.id = '{job_id}'; job.save(force_insert=True)")
    assert made.returncode == 0, made.stderr
    keys = Keys()
    schedulers.redis.rpush(keys.job_logs(job_id), *[f"t stdout {number}" for number in range(1000)])
    schedulers.redis.hset(
        keys.job_logs_meta(job_id), mapping={"lines": 1000, "attempt": 1, "complete": 1, "begin:1": 0}
    )
    schedulers.redis.zadd(keys.logs_to_archive, {job_id: 0})
    return job_id


def archived_text(schedulers: Schedulers, job_id: str) -> str:
    """What of the job's files in the archive counts."""
    with sqlite3.connect(schedulers.directory / "db.sqlite3") as database:
        query = "SELECT name FROM jobs_logchunk WHERE job_id = ? ORDER BY first"
        names = [name for (name,) in database.execute(query, [job_id.replace("-", "")])]
    return "".join(gzip.decompress((schedulers.directory / "archive" / name).read_bytes()).decode() for name in names)


@pytest.mark.parametrize("moment", ["logs-stored", "logs-counted"])
def test_killed_while_it_archives_it_neither_loses_nor_doubles_a_line(
    schedulers: Schedulers, archiving_job: str, moment: str
) -> None:
    schedulers.env["CRASH_POINT"] = moment
    assert schedulers.start().wait(30) == -signal.SIGKILL
    assert schedulers.redis.ttl(Keys().job_logs(archiving_job)) == -1
    del schedulers.env["CRASH_POINT"]
    schedulers.start()
    wait_for("the log to expire", lambda: schedulers.redis.ttl(Keys().job_logs(archiving_job)) > 0, timeout=30)
    assert archived_text(schedulers, archiving_job) == "".join(f"t stdout {number}\n" for number in range(1000))
    assert schedulers.redis.zcard(Keys().logs_to_archive) == 0


def test_an_archive_that_takes_nothing_is_said_once_and_holds_up_no_pass(
    schedulers: Schedulers, archiving_job: str
) -> None:
    (schedulers.directory / "archive").write_text("a file where the folder should be")
    schedulers.start()
    schedulers.says(0, "archiving logs waits, and tries again: The archive")
    schedulers.hello("node")
    schedulers.ask()
    assert schedulers.redis.ttl(Keys().job_logs(archiving_job)) == -1
    (schedulers.directory / "archive").unlink()
    schedulers.says(0, "archiving logs goes on")
    assert schedulers.output(0).count("archiving logs waits") == 1
    wait_for("the log to expire", lambda: schedulers.redis.ttl(Keys().job_logs(archiving_job)) > 0, timeout=30)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_ends_at_once_and_a_standby_takes_over(schedulers: Schedulers, signal_number: int) -> None:
    schedulers.env["LEASE_SECONDS"] = "60"
    schedulers.env["JOB_POLL_INTERVAL"] = "30"
    leader = schedulers.start()
    schedulers.says(0, "leading as")
    leader.send_signal(signal_number)
    assert leader.wait(3) == 0
    assert "scheduler stopped" in schedulers.output(0)
    assert "Traceback" not in schedulers.output(0)
    schedulers.start()
    schedulers.says(1, "leading as")
    assert schedulers.lease()[1] == 2
    assert "term 1" in (schedulers.directory / "scheduler.log").read_text()


def test_a_standby_takes_over_from_a_leader_that_was_killed(schedulers: Schedulers) -> None:
    leader = schedulers.start()
    schedulers.says(0, "leading as")
    schedulers.start()
    schedulers.says(1, "standing by")
    leader.kill()
    leader.wait()
    schedulers.hello("n1")
    schedulers.says(1, "executor n1 (n1) joined")


def test_a_leader_that_was_paused_past_its_lease_writes_nothing_and_stands_by(schedulers: Schedulers) -> None:
    leader = schedulers.start()
    schedulers.says(0, "leading as")
    schedulers.start()
    schedulers.says(1, "standing by")
    leader.send_signal(signal.SIGSTOP)
    schedulers.says(1, "leading as")
    schedulers.ask()
    leader.send_signal(signal.SIGCONT)
    schedulers.says(0, "no longer leads")
    schedulers.hello("n1")
    schedulers.says(1, "joined")
    assert "joined" not in schedulers.output(0)
    assert schedulers.lease()[1] == 2


SUBMIT = """
from tests.jobs.passes import submit
for _ in range(20):
    submit(cpu_millicores=100, memory_bytes=1)
"""


def test_two_that_take_the_lead_from_each_other_place_every_job_once(schedulers: Schedulers) -> None:
    schedulers.hello("n1")
    for number in (0, 1):
        schedulers.start()
        schedulers.says(number, "leading as" if number == 0 else "standing by")
    for turn in range(2):
        paused, successor = schedulers.processes[turn % 2], (turn + 1) % 2
        paused.send_signal(signal.SIGSTOP)
        schedulers.says(successor, f"term {turn + 2}")
        schedulers.manage("shell", "-c", SUBMIT).check_returncode()
        paused.send_signal(signal.SIGCONT)
        schedulers.ask()
        schedulers.says(turn % 2, "no longer leads")
    with sqlite3.connect(schedulers.directory / "db.sqlite3") as database:
        attempts = database.execute("SELECT job_id, number, start_command FROM jobs_attempt").fetchall()
    assert len(attempts) == 40
    assert len({job_id for job_id, _, _ in attempts}) == 40
    sent = [int(entry_id.split(b"-")[0]) for entry_id, _ in schedulers.redis.xrange(Keys().commands("n1"))]
    assert sent == sorted(start_command for _, _, start_command in attempts) == list(range(1, 41))


def test_without_redis_it_says_so_once_keeps_the_lease_and_goes_on_when_it_is_back(schedulers: Schedulers) -> None:
    schedulers.start()
    schedulers.says(0, "leading as")
    schedulers.ask()
    schedulers.stop_redis()
    schedulers.says(0, "trouble with Redis")
    schedulers.start()
    schedulers.says(1, "standing by")
    schedulers.start_redis()
    schedulers.hello("n1")
    schedulers.says(0, "Redis is well again")
    schedulers.says(0, "joined")
    assert schedulers.output(0).count("trouble with") == 1
    assert "Traceback" not in schedulers.output(0)
    assert schedulers.lease()[1] == 1


def test_without_its_tables_it_waits_until_they_are_made(tmp_path: Path) -> None:
    schedulers = Schedulers(tmp_path)
    try:
        schedulers.start_redis()
        schedulers.start()
        schedulers.says(0, "trouble with the database")
        schedulers.migrate()
        schedulers.says(0, "leading as")
        assert "Traceback" not in schedulers.output(0)
    finally:
        schedulers.close()


def test_once_makes_one_pass_and_exits(schedulers: Schedulers) -> None:
    schedulers.hello("n1")
    done = schedulers.manage("runscheduler", "--once")
    assert done.returncode == 0, done.stderr
    assert "executor n1 (n1) joined" in done.stderr
    assert schedulers.redis.xlen(Keys().events) == 0


def test_once_fails_while_another_leads(schedulers: Schedulers) -> None:
    schedulers.env["LEASE_SECONDS"] = "60"
    schedulers.start()
    schedulers.says(0, "leading as")
    done = schedulers.manage("runscheduler", "--once")
    assert done.returncode == 1
    assert "Another scheduler leads" in done.stderr


def test_help_says_what_it_does_and_which_settings_it_reads(schedulers: Schedulers) -> None:
    text = schedulers.manage("runscheduler", "--help").stdout
    assert "Any number of schedulers may run" in text
    assert "PLACEMENT_STRATEGY" in text


def test_a_strategy_that_does_not_exist_is_refused_by_name(schedulers: Schedulers) -> None:
    schedulers.env["PLACEMENT_STRATEGY"] = "worst-fit"
    done = schedulers.manage("runscheduler", "--once")
    assert done.returncode != 0
    assert "must be one of first-fit, best-fit, spread, not 'worst-fit'" in done.stderr
