"""All settings, read once from the environment. `.env.example` lists every variable."""

import os
import secrets
import socket
from pathlib import Path

from project import env
from project.admin_theme import UNFOLD as UNFOLD

BASE_DIR = Path(__file__).resolve().parent.parent


def _load_dotenv(path: Path) -> None:
    """Read NAME=value lines from `.env`; what the environment already has wins."""
    if path.is_file():
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not name.lstrip().startswith("#"):
                os.environ.setdefault(name.strip(), value.strip().strip("\"'"))


_load_dotenv(BASE_DIR / ".env")

# --- where things lie
DATA_PATH = env.folder("DATA_PATH", BASE_DIR / "var")
MODEL_STORAGE_PATH = env.folder("MODEL_STORAGE_PATH", DATA_PATH / "artifacts")
MODEL_CACHE_PATH = env.folder("MODEL_CACHE_PATH", DATA_PATH / "cache")
RUNS_PATH = DATA_PATH / "runs"
UPLOADS_PATH = DATA_PATH / "uploads"
SECRETS_PATH = DATA_PATH / "secrets"
BROKER_PATH = DATA_PATH / "broker"
for _folder in (DATA_PATH, MODEL_STORAGE_PATH, MODEL_CACHE_PATH, RUNS_PATH, UPLOADS_PATH, SECRETS_PATH, BROKER_PATH):
    _folder.mkdir(parents=True, exist_ok=True)
SECRETS_PATH.chmod(0o700)

HOST_NAME = env.text("TUNELOOP_HOST_NAME", socket.gethostname())


def _kept_secret(name: str) -> str:
    """A random value made once and kept in a file only this account can read."""
    path = SECRETS_PATH / name
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        value = secrets.token_urlsafe(48)
        file.write(value)
    return value


# --- security
SECRET_KEY = env.text("SECRET_KEY") or _kept_secret("secret_key")
DEBUG = env.flag("DEBUG")
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
HTTPS = env.flag("HTTPS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.flag("BEHIND_PROXY") else None
SESSION_COOKIE_HTTPONLY = True
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
AUTH_USER_MODEL = "kernel.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
CSRF_FAILURE_VIEW = "project.kernel.views.csrf_failure"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign-in"

# --- what is installed
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.forms",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "project.kernel",
    "project.jobs",
    "datasets_app",
    "registry",
    "training",
    "abtests",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.kernel.middleware.ContentSecurityPolicy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.kernel.middleware.ProblemPages",
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"
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
                "project.kernel.pages.workspace_context",
            ],
        },
    }
]
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"

# --- data
DATABASES = {
    "default": env.database(
        "DATABASE_URL",
        {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(DATA_PATH / "db.sqlite3"),
            "TEST": {"NAME": str(DATA_PATH / "test.sqlite3")},  # a file: in memory, threads would lock each other out
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",  # a writer waits at BEGIN instead of failing half-way
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-32000;",
            },
        },
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.text("REDIS_URL")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

S3_BUCKET = env.text("S3_BUCKET")
S3_ENDPOINT_URL = env.text("S3_ENDPOINT_URL")
AWS_ACCESS_KEY_ID = env.text("AWS_ACCESS_KEY_ID")
AWS_SECRET_ACCESS_KEY = env.text("AWS_SECRET_ACCESS_KEY")
AWS_REGION = env.text("AWS_REGION", "us-east-1")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(UPLOADS_PATH)}},
    "artifacts": {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": S3_BUCKET,
            "endpoint_url": S3_ENDPOINT_URL or None,
            "access_key": AWS_ACCESS_KEY_ID or None,
            "secret_key": AWS_SECRET_ACCESS_KEY or None,
            "region_name": AWS_REGION,
            "file_overwrite": True,
            "location": env.text("S3_PREFIX"),
        },
    }
    if S3_BUCKET
    else {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(MODEL_STORAGE_PATH)},
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
STATIC_URL = "static/"
STATIC_ROOT = DATA_PATH / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT.mkdir(exist_ok=True)
WHITENOISE_USE_FINDERS = True
MAX_UPLOAD_BYTES = env.integer("MAX_UPLOAD_BYTES", 2 * 1024**3, least=1)
MAX_UNPACKED_BYTES = env.integer("MAX_UNPACKED_BYTES", 8 * 1024**3, least=1)  # of a gzip, zstd or Parquet file
MAX_DATASET_ROWS = env.integer("MAX_DATASET_ROWS", 5_000_000, least=1)
MAX_LINE_BYTES = env.integer("MAX_LINE_BYTES", 8 * 1024**2, least=1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024**2
MODEL_DIR_ROOT = env.text("MODEL_DIR_ROOT")  # only folders below it can be imported with dir:NAME
DATA_DIR_ROOT = env.text("DATA_DIR_ROOT")  # rows below it can be imported with dir:NAME
DATA_S3_BUCKETS = env.words("DATA_S3_BUCKETS")  # rows can be imported from these, with the installation's own key
HUGGINGFACE_TOKEN = env.text("HUGGINGFACE_TOKEN")

# --- calls to other servers
OUTGOING_ALLOW = env.words("OUTGOING_ALLOW")  # hosts, host:port and networks that may be called though not public
VAULT_KEY = env.text("VAULT_KEY")  # encrypts secrets; empty: a key made once in SECRETS_PATH

# --- queue
CELERY = {
    "broker_url": REDIS_URL or "filesystem://",
    "broker_transport_options": {}
    if REDIS_URL
    else {
        "data_folder_in": str(BROKER_PATH / "queue"),
        "data_folder_out": str(BROKER_PATH / "queue"),
        "control_folder": str(BROKER_PATH / "control"),
        "store_processed": False,
        "polling_interval": 0.1,
    },
    "broker_connection_retry_on_startup": True,
    "task_ignore_result": True,
    "worker_pool": "solo",  # a task only wakes the worker's dispatcher, which must be in the same process
    "task_acks_late": False,  # the database decides what runs again, never the broker
    "worker_prefetch_multiplier": 1,
    "task_default_queue": "cpu",
    "worker_hijack_root_logger": False,
    "beat_schedule_filename": str(DATA_PATH / "celerybeat-schedule"),
}
if not REDIS_URL:
    (BROKER_PATH / "queue").mkdir(parents=True, exist_ok=True)
    (BROKER_PATH / "control").mkdir(parents=True, exist_ok=True)

# --- jobs (jobs.md explains each; seconds)
JOB_LEASE = env.decimal("JOB_LEASE", 60.0, least=1)
JOB_BEAT = env.decimal("JOB_BEAT", 10.0, least=0.1)
JOB_SWEEP = env.decimal("JOB_SWEEP", 15.0, least=0.2)
JOB_GRACE = env.decimal("JOB_GRACE", 300.0, least=1)
JOB_STOP_TIMEOUT = env.decimal("JOB_STOP_TIMEOUT", 90.0, least=1)
MAX_TRAINING_JOBS = env.integer("MAX_TRAINING_JOBS", 1, least=1)
MAX_CPU_JOBS = env.integer("MAX_CPU_JOBS", 2, least=1)
ENGINE_THREADS = env.integer("ENGINE_THREADS", 0, least=0)
WARM_ENGINES = env.flag("WARM_ENGINES", default=True)
JOB_TIME_LIMIT = env.integer("JOB_TIME_LIMIT", 0, least=0)  # of a job that names none; 0: no limit
JOB_MEMORY_LIMIT = env.integer("JOB_MEMORY_LIMIT", 0, least=0)  # bytes, likewise
MIN_FREE_BYTES = env.integer("MIN_FREE_BYTES", 1024**3, least=0)
KEEP_CHECKPOINTS_DAYS = env.decimal("KEEP_CHECKPOINTS_DAYS", 30, least=0)

# --- serving (seconds, tokens)
SERVE_LEASE = env.decimal("SERVE_LEASE", 15.0, least=2)
SERVE_DRAIN = env.decimal("SERVE_DRAIN", 20.0, least=1)
SERVE_DTYPE = env.choice("SERVE_DTYPE", ("auto", "float32", "bfloat16"))
SERVE_THREADS = env.integer("SERVE_THREADS", 0, least=0)
SERVE_CONTEXT_LIMIT = env.integer("SERVE_CONTEXT_LIMIT", 0, least=0)
SERVE_MAX_BATCH = env.integer("SERVE_MAX_BATCH", 16, least=1)
SERVE_MAX_WAITING = env.integer("SERVE_MAX_WAITING", 64, least=0)

# --- defaults of a training job
DEFAULT_BATCH_SIZE = env.integer("DEFAULT_BATCH_SIZE", 8, least=1)
DEFAULT_LEARNING_RATE = env.decimal("DEFAULT_LEARNING_RATE", 2e-4, least=0)
DEFAULT_EPOCHS = env.decimal("DEFAULT_EPOCHS", 3, least=0)
LORA_R = env.integer("LORA_R", 8, least=1)
LORA_ALPHA = env.integer("LORA_ALPHA", 16, least=1)
LORA_DROPOUT = env.decimal("LORA_DROPOUT", 0.0, least=0, most=1)

# --- API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "project.kernel.api.authentication.TokenAuthentication",
        "project.kernel.api.authentication.PageSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "project.kernel.api.pagination.Pages",
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.SearchFilter",
        "project.kernel.api.pagination.Ordering",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "project.kernel.api.problems.problem_response",
    "UNAUTHENTICATED_USER": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tuneloop API",
    "DESCRIPTION": "Everything the pages do. Errors are RFC 9457 problem details.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "ENUM_NAME_OVERRIDES": {
        "JobStateEnum": "project.jobs.models.job.JobState",
        "DataVersionStateEnum": "datasets_app.models.datasets.VersionState",
        "DeploymentStateEnum": "registry.models.serving.DeploymentState",
        "ABTestStateEnum": "abtests.models.ab_tests.TestState",
    },
}

# --- language, time, logs
LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.text("LOG_LEVEL", "INFO")},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "django.channels": {"level": "WARNING"},
        "celery": {"level": "WARNING"},  # two sweeps every few seconds are no news
        "kombu.connection": {"level": "ERROR"},  # warns that a folder has no host name
    },
}
