"""Settings of the film API: SQLite as it comes, PostgreSQL by environment (README.md names the variables)."""

import os
import secrets

# Nothing is signed: there are no sessions, forms or users.
SECRET_KEY = secrets.token_urlsafe(32)
DEBUG = False
ALLOWED_HOSTS = os.environ.get("FILMS_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
ROOT_URLCONF = "filmapi.urls"
WSGI_APPLICATION = "filmapi.wsgi.application"
INSTALLED_APPS = ["rest_framework", "films"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if "FILMS_POSTGRESQL" in os.environ:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["FILMS_POSTGRESQL"],
            # Connections are kept, and looked at before they are used again: PostgreSQL may have been away in between.
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"connect_timeout": 3},
        }
    }
else:
    SQLITE = os.environ.get("FILMS_SQLITE", "films.sqlite3")
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": SQLITE,
            "CONN_MAX_AGE": 60,
            "OPTIONS": {
                "timeout": 20,
                # A transaction that takes its lock late can fail at once, whatever the timeout is.
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            # A file: threads cannot wait for each other in a database in memory.
            "TEST": {"NAME": f"{SQLITE}.test"},
        }
    }

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "UNAUTHENTICATED_USER": None,
    "EXCEPTION_HANDLER": "films.errors.answer",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
