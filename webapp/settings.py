"""The project's settings, each from the environment where it may differ; docs/operations.md lists them all."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("VAR_DIR", BASE_DIR / "var"))
VAR_DIR.mkdir(parents=True, exist_ok=True)


def env_bool(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def env_seconds(name: str, default: float) -> float:
    """A positive number of seconds; raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise ImproperlyConfigured(f"{name} must be a positive number of seconds, not {text!r}.")
    return seconds


def env_days(name: str) -> int:
    """A whole number of days, 0 by default; raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, "0")
    if not text.isdecimal() or int(text) > 100_000:
        raise ImproperlyConfigured(f"{name} must be a whole number of days, 0 for ever, not {text!r}.")
    return int(text)


def env_megabytes(name: str, default: float) -> int:
    """A size in MB of 1024² bytes, at least 0.1, as bytes; raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, str(default))
    try:
        size = float(text)
    except ValueError:
        size = 0
    if not 0.1 <= size < 1e9:
        raise ImproperlyConfigured(f"{name} must be a size in MB, at least 0.1, not {text!r}.")
    return int(size * 1024**2)


def env_port(name: str, default: int) -> int:
    """A TCP port; raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ImproperlyConfigured(f"{name} must be a port number from 1 to 65535, not {text!r}.")
    return int(text)


def env_choice(name: str, *choices: str) -> str:
    """One of `choices`, the first by default; raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, choices[0])
    if text not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}, not {text!r}.")
    return text


def env_list(name: str, default: str = "") -> list[str]:
    """The parts between commas, stripped, without empty ones."""
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]


def secret_key() -> str:
    """SECRET_KEY, or one made once and kept in the var folder, readable by its owner alone."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    path = VAR_DIR / "secret_key"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(get_random_secret_key())
    except FileExistsError:
        pass
    return path.read_text()


# --- The seed's names --------------------------------------------------------------------------------------------

SCHEDULER_API_HOST = os.environ.get("SCHEDULER_API_HOST", "127.0.0.1")
SCHEDULER_API_PORT = env_port("SCHEDULER_API_PORT", 8000)
HEARTBEAT_INTERVAL = env_seconds("HEARTBEAT_INTERVAL", 30)
JOB_POLL_INTERVAL = env_seconds("JOB_POLL_INTERVAL", 10)


def redis_url() -> str:
    """REDIS_URL, or the seed's REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_DB."""
    if url := os.environ.get("REDIS_URL"):
        return url
    password = quote(os.environ.get("REDIS_PASSWORD", ""), safe="")
    host, port = os.environ.get("REDIS_HOST", "localhost"), env_port("REDIS_PORT", 6379)
    return f"redis://{f':{password}@' if password else ''}{host}:{port}/{os.environ.get('REDIS_DB', '0')}"


REDIS_URL = redis_url()
REDIS_KEY_PREFIX = os.environ.get("REDIS_KEY_PREFIX", "")

# --- Scheduling --------------------------------------------------------------------------------------------------

MISSED_HEARTBEATS_TO_LOSE = 3
LEASE_SECONDS = env_seconds("LEASE_SECONDS", 15)
STARTING_TIMEOUT_SECONDS = env_seconds("STARTING_TIMEOUT_SECONDS", 3600)
"""How long a job may be STARTING, pulling its image included, before it is taken from its executor."""
ABORT_GRACE_SECONDS = int(env_seconds("ABORT_GRACE_SECONDS", 10))
PLACEMENT_STRATEGY = env_choice("PLACEMENT_STRATEGY", "first-fit", "best-fit", "spread")
"""`jobs/scheduling/placement.py` says what each does."""
LOG_DIR = Path(os.environ.get("LOG_DIR", BASE_DIR))

# --- Logs and what is kept ---------------------------------------------------------------------------------------

LOG_RETENTION_SECONDS = int(env_seconds("LOG_RETENTION_SECONDS", 3600))
"""How long Redis keeps a log after its job's end, when all of it is archived."""
LOG_ARCHIVE_LIMIT_BYTES = env_megabytes("LOG_ARCHIVE_LIMIT_MB", 1024)
"""Of one job's log, uncompressed; of a longer one the middle is cut."""
JOB_RETENTION_DAYS = env_days("JOB_RETENTION_DAYS")
"""Finished jobs are deleted after it, with attempts and logs; 0 keeps them for ever."""


def archive_storage() -> dict[str, Any]:
    """A folder, or a bucket of S3 or what speaks like it. Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or
    whatever else boto3 finds."""
    bucket = os.environ.get("ARCHIVE_BUCKET")
    if not bucket:
        folder = Path(os.environ.get("ARCHIVE_DIR", VAR_DIR / "archive"))
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": folder}}
    options = {
        "bucket_name": bucket,
        "endpoint_url": os.environ.get("ARCHIVE_ENDPOINT_URL") or None,
        "region_name": os.environ.get("ARCHIVE_REGION") or None,
        "location": os.environ.get("ARCHIVE_PREFIX", ""),
    }
    return {"BACKEND": "jobs.bucket.Bucket", "OPTIONS": options}


STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "webapp.static_files.VersionedFiles"},
    "archive": archive_storage(),
}

# --- Who may come in ---------------------------------------------------------------------------------------------

SECRET_KEY = secret_key()
DEBUG = env_bool("DEBUG")
OPEN_TO_LOCAL_USER = env_bool("OPEN_TO_LOCAL_USER")
"""Pages and API without a login for requests from this machine; `webapp/auth.py` refuses it on any other address."""
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS")
"""Origins such as https://jobs.example.com where a proxy in front changes the Host header."""
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env_bool("SECURE_COOKIES")
"""On where pages are served over HTTPS."""
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "dashboard"
LOGOUT_REDIRECT_URL = "login"

# --- Django ------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "django_htmx",
    "executors",
    "jobs",
    "webapp",
]

MIDDLEWARE = [
    "webapp.errors.ApiErrorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.auth.LocalUserMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "webapp.auth.LoginRequiredMiddleware",
]

ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.context.redis_away",
            ],
        },
    }
]

# Each of the threads that answer requests keeps its connection (webapp/handler.py), and tries it before each use.
DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{VAR_DIR / 'db.sqlite3'}", conn_max_age=60, conn_health_checks=True
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    DATABASES["default"]["ENGINE"] = "webapp.postgresql"
    # A server that fell silent is noticed within half a minute, not by the two hours of the kernel's defaults.
    given = DATABASES["default"].get("OPTIONS", {})
    keepalives = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 3} | keepalives | given
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # WAL lets pages read while the scheduler writes; IMMEDIATE takes the write lock at the start, so that a
    # transaction waits its turn instead of failing half-way.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],  # scripts and styles from our own files only, none inline
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "jobs.logformat.EachLine",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        }
    },
    "filters": {
        "away": {"()": "webapp.errors.AwayInOneLine"},
        "health": {"()": "webapp.errors.HealthIsAnAnswer"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["away", "health"]}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
}
