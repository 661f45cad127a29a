"""Exceptions as answers."""

import logging

from django.db import InterfaceError, OperationalError
from rest_framework.response import Response
from rest_framework.views import exception_handler

LOG = logging.getLogger("films")


def answer(error, context):
    """A database that is away, restarting or busy is 503: the request may be sent again. Everything else as the framework has it."""
    if isinstance(error, OperationalError | InterfaceError):
        LOG.warning("the database cannot be used: %s", str(error).splitlines()[0])
        return Response({"error": "the database cannot be used at the moment"}, status=503, headers={"Retry-After": "1"})
    return exception_handler(error, context)
