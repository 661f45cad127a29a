"""Tables of films and issued numbers."""

from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Film',
            fields=[
                ('position', models.BigAutoField(primary_key=True, serialize=False)),
                ('number', models.BigIntegerField(db_column='id', unique=True)),
                ('machine', models.CharField(max_length=255)),
                ('data', models.TextField()),
                ('key', models.CharField(db_column='idempotency_key', max_length=255, null=True, unique=True)),
                ('received_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='IssuedId',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('key', models.CharField(max_length=255, null=True, unique=True)),
                ('issued_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
