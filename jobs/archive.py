"""The archive's files: jobs' logs as gzip chunks in the storage `archive` (settings.STORAGES), a folder or a bucket.

`logs/<job id>/<number of its first line>-<how many>-<random>.gz`: text, one line after the other, so that `zcat` reads
it. A file is never changed and no two ever bear the same name; which ones count is said by `jobs.models.LogChunk`.
"""

import functools
import gzip
import secrets
import zlib
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from isal import igzip

CACHED_CHUNKS = 8
"""Who reads on page by page needs a chunk several times; each is about 1 MiB."""
COMPRESSION = 1
"""igzip's, which takes an eighth to a fifth of the CPU of zlib's for files as small."""

T = TypeVar("T")


class ArchiveUnavailable(RuntimeError):
    """The storage does not do what it should: full, read-only, not reachable. Nothing is lost by it; try again."""


class ChunkGone(LookupError):
    """The storage answers, and has no such file."""


def new_name(job_id: UUID | str, first: int, count: int) -> str:
    return f"logs/{job_id}/{first:012}-{count}-{secrets.token_hex(4)}.gz"


def job_of(name: str) -> str:
    """The id of the job whose file this is."""
    return name.split("/")[1]


def store(name: str, text: bytes) -> None:
    """Raises ArchiveUnavailable; then there may be a part of the file."""
    packed = igzip.compress(text, COMPRESSION, mtime=0)
    saved = _asked(lambda: storage().save(name, ContentFile(packed)))
    if saved != name:
        raise ArchiveUnavailable(f"The archive stored {name} as {saved}.")


@functools.lru_cache(CACHED_CHUNKS)
def read(name: str) -> list[bytes]:
    """The lines of a file, not to be changed. Raises ChunkGone and ArchiveUnavailable."""
    return text_of(name).split(b"\n")[:-1]


def text_of(name: str) -> bytes:
    """As `read`, as it stands."""

    def load() -> bytes:
        with storage().open(name) as file:
            packed: bytes = file.read()
        return packed

    try:
        return gzip.decompress(_asked(load))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ChunkGone(f"{name} is damaged: {error}") from None


def delete(names: Iterable[str]) -> None:
    """Those that are not there are no error. Raises ArchiveUnavailable."""
    for name in names:
        _asked(lambda name=name: storage().delete(name))  # type: ignore[misc]


def delete_job(job_id: UUID | str) -> None:
    """All files of a job, also those that never counted. Raises ArchiveUnavailable."""
    folder = f"logs/{job_id}"

    def names() -> list[str]:
        try:
            return storage().listdir(folder)[1]
        except FileNotFoundError:
            return []

    delete([f"{folder}/{name}" for name in _asked(names)])
    delete([folder])


def storage() -> Storage:
    return storages["archive"]


def _asked(call: Callable[[], T]) -> T:
    """What the storage answers. Raises ChunkGone and ArchiveUnavailable: each storage has its own errors."""
    try:
        return call()
    except FileNotFoundError as error:
        raise ChunkGone(str(error)) from None
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ArchiveUnavailable(f"The archive does not answer as it should: {first_line}") from error
