"""Films, and the numbers that are handed out for them."""

from django.db import models

KEY_LENGTH_MAX = 255


class IssuedId(models.Model):
    """A number that was handed out, and the Idempotency-Key of the request that got it. Numbers are never used twice.

    Of numbers that were handed out together the first has the key and their count.
    """

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=KEY_LENGTH_MAX, unique=True, null=True)
    count = models.PositiveIntegerField(default=1)
    issued_at = models.DateTimeField(auto_now_add=True)


class Film(models.Model):
    """A record of a machine. The database itself holds that number and key are unique: two requests at once cannot both win."""

    # Counts rows in the order of their arrival. Of two requests at the same time the later position may be committed first.
    position = models.BigAutoField(primary_key=True)
    number = models.BigIntegerField(unique=True, db_column="id")
    machine = models.CharField(max_length=255)
    data = models.TextField()
    key = models.CharField(max_length=KEY_LENGTH_MAX, unique=True, null=True, db_column="idempotency_key")
    received_at = models.DateTimeField(auto_now_add=True)
