"""Films as JSON."""

from rest_framework import serializers

from .models import Film


def valid_text(text):
    """JSON can escape half of a surrogate pair, which is no text and cannot be stored."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise serializers.ValidationError(f"not valid Unicode at position {error.start}") from error


class FilmInput(serializers.Serializer):
    """The body of POST /films/. Data is kept as it is, white space included."""

    id = serializers.IntegerField(min_value=0, max_value=2**63 - 1, required=False, allow_null=True)
    machine = serializers.CharField(max_length=255, trim_whitespace=False, validators=[valid_text])
    data = serializers.CharField(allow_blank=True, trim_whitespace=False, validators=[valid_text])


class Lease(serializers.Serializer):
    """The body of POST /seq/: without a count it asks for one number."""

    count = serializers.IntegerField(min_value=1, max_value=10_000, required=False)


class FilmOutput(serializers.ModelSerializer):
    """A stored film."""

    id = serializers.IntegerField(source="number")

    class Meta:
        model = Film
        fields = ["position", "id", "machine", "data", "received_at"]


class Window(serializers.Serializer):
    """The query of GET /films/."""

    after = serializers.IntegerField(min_value=0, max_value=2**63 - 1, default=0)
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=100)
