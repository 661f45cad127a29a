"""Numbers that are handed out together."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('films', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='issuedid',
            name='count',
            field=models.PositiveIntegerField(default=1),
        ),
    ]
