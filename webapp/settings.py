"""The project's settings, each from the environment where it may differ; docs/operations.md lists them all."""

import os
from pathlib import Path

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
    if seconds <= 0:
        raise ImproperlyConfigured(f"{name} must be a positive number of seconds, not {text!r}.")
    return seconds


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
SCHEDULER_API_PORT = int(os.environ.get("SCHEDULER_API_PORT", "8000"))
HEARTBEAT_INTERVAL = env_seconds("HEARTBEAT_INTERVAL", 30)
JOB_POLL_INTERVAL = env_seconds("JOB_POLL_INTERVAL", 10)


def redis_url() -> str:
    """REDIS_URL, or the seed's REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_DB."""
    if url := os.environ.get("REDIS_URL"):
        return url
    password = os.environ.get("REDIS_PASSWORD", "")
    host, port = os.environ.get("REDIS_HOST", "localhost"), os.environ.get("REDIS_PORT", "6379")
    return f"redis://{f':{password}@' if password else ''}{host}:{port}/{os.environ.get('REDIS_DB', '0')}"


REDIS_URL = redis_url()
REDIS_KEY_PREFIX = os.environ.get("REDIS_KEY_PREFIX", "")

# --- Scheduling --------------------------------------------------------------------------------------------------

MISSED_HEARTBEATS_TO_LOSE = 3
LEASE_SECONDS = env_seconds("LEASE_SECONDS", 15)
ABORT_GRACE_SECONDS = int(env_seconds("ABORT_GRACE_SECONDS", 10))
LOG_DIR = Path(os.environ.get("LOG_DIR", BASE_DIR))

# --- Who may come in ---------------------------------------------------------------------------------------------

SECRET_KEY = secret_key()
DEBUG = env_bool("DEBUG")
OPEN_TO_LOCAL_USER = env_bool("OPEN_TO_LOCAL_USER")
"""Pages and API without a login for requests from this machine; `webapp/auth.py` refuses it on any other address."""
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
CSRF_TRUSTED_ORIGINS = [origin for origin in os.environ.get("CSRF_TRUSTED_ORIGINS", "").split(",") if origin]
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
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "django_htmx",
    "ninja",
    "executors",
    "jobs",
    "webapp",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.auth.LocalUserMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "webapp.auth.LoginRequiredMiddleware",  # sync and innermost, which makes the chain change threads once
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
            ],
        },
    }
]

DATABASES = {"default": dj_database_url.config(default=f"sqlite:///{VAR_DIR / 'db.sqlite3'}", conn_max_age=60)}
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

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
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
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
}
