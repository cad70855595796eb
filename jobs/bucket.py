"""The archive in a bucket of S3, or of what speaks like it."""

from typing import Any

from botocore.config import Config
from storages.backends.s3 import S3Storage

CONNECT_SECONDS = 3
ANSWER_SECONDS = 20
TRIES = 2


class Bucket(S3Storage):
    """Gives up soon where the bucket does not answer: a person may be waiting, and archiving is tried again anyway."""

    def get_default_settings(self) -> dict[str, Any]:
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            retries={"total_max_attempts": TRIES, "mode": "standard"},
        )
        settings: dict[str, Any] = super().get_default_settings()
        return {**settings, "client_config": config}
