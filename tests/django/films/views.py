"""The film API's requests.

A row is inserted first, and only if the database refuses it for a unique column is looked up what stands there: looking first
would leave a gap between look and insert, in which the same request, sent twice, could get in twice.
"""

from django.db import IntegrityError, connection, transaction
from django.shortcuts import get_object_or_404
from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from .models import KEY_LENGTH_MAX, Film, IssuedId
from .serializers import FilmInput, FilmOutput, Lease, Window


def idempotency_key(request):
    """The request's Idempotency-Key, or None without one."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= KEY_LENGTH_MAX and key.isascii() and key.isprintable()):
        raise ValidationError({"Idempotency-Key": [f"must be 1 to {KEY_LENGTH_MAX} visible ASCII characters"]})
    return key


def created(number):
    return Response({"id": number}, status=status.HTTP_201_CREATED)


def conflict(reason):
    return Response({"error": reason}, status=status.HTTP_409_CONFLICT)


def take_id(key):
    """The next number, or the one that `key` got before."""
    try:
        with transaction.atomic():
            return IssuedId.objects.create(key=key).id
    except IntegrityError:
        return IssuedId.objects.get(key=key).id


def take_ids(key, count):
    """The first of `count` numbers that follow each other, and how many they are: for a known key those that it got before."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # An INSERT takes its number only once it has its own lock of the table, so none comes in between.
                if connection.vendor == "postgresql":
                    cursor.execute("LOCK TABLE films_issuedid IN EXCLUSIVE MODE")
                first = IssuedId.objects.create(key=key, count=count).id
                IssuedId.objects.bulk_create(IssuedId(id=first + offset) for offset in range(1, count))
                if connection.vendor == "postgresql":
                    sequence = "pg_get_serial_sequence('films_issuedid', 'id')"
                    cursor.execute(f"SELECT setval({sequence}, %s)", [first + count - 1])
            return first, count
    except IntegrityError:
        issued = IssuedId.objects.get(key=key)
        return issued.id, issued.count


@api_view(["POST"])
def next_id(request):
    key = idempotency_key(request)
    body = Lease(data=request.data)
    body.is_valid(raise_exception=True)
    if "count" not in body.validated_data:
        return created(take_id(key))
    first, count = take_ids(key, body.validated_data["count"])
    return Response({"id": first, "count": count}, status=status.HTTP_201_CREATED)


@api_view(["GET", "POST"])
def films(request):
    return create(request) if request.method == "POST" else follow(request)


def create(request):
    key = idempotency_key(request)
    body = FilmInput(data=request.data)
    body.is_valid(raise_exception=True)
    machine, data, given = body.validated_data["machine"], body.validated_data["data"], body.validated_data.get("id")
    while True:
        number = take_id(None) if given is None else given
        try:
            with transaction.atomic():
                Film.objects.create(number=number, machine=machine, data=data, key=key)
            return created(number)
        except IntegrityError:
            stored = Film.objects.filter(key=key).first() if key is not None else None
            if stored is not None:
                return created(stored.number)
            # Else a number from elsewhere was in the way of one that we took: take another.
            if given is not None:
                return explain(Film.objects.get(number=given), machine, data, key)


def explain(stored, machine, data, key):
    """The answer to a film whose number is used. Two keys are two records; without them the same content is the same record."""
    if (stored.machine, stored.data) != (machine, data):
        return conflict(f"id {stored.number} belongs to a film with other content")
    if key is not None and stored.key is not None:
        return conflict(f"id {stored.number} was stored under another Idempotency-Key")
    return created(stored.number)


def follow(request):
    window = Window(data=request.query_params)
    window.is_valid(raise_exception=True)
    after, limit = window.validated_data["after"], window.validated_data["limit"]
    rows = list(Film.objects.filter(position__gt=after).order_by("position")[:limit])
    return Response({"films": FilmOutput(rows, many=True).data, "next": rows[-1].position if rows else after})


@api_view(["GET"])
def film(request, number):
    return Response(FilmOutput(get_object_or_404(Film, number=number)).data)
