"""Job ids as moments: a UUIDv7 begins with 48 bits of milliseconds, so ids compare as times do."""

import uuid
from datetime import datetime


def oldest_job_id(moment: datetime) -> uuid.UUID:
    """The least id that a job submitted at `moment` can have."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
