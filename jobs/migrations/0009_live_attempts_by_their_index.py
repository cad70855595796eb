from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """Makes `attempt_live` anew, after `attempt_executor`: SQLite took the latter for what an executor's live attempts
    hold, and so read all that the executor had ever run."""

    dependencies = [("jobs", "0008_fewer_indexes")]

    operations = [
        migrations.RemoveIndex(model_name="attempt", name="attempt_live"),
        migrations.AddIndex(
            model_name="attempt",
            index=models.Index(condition=Q(finished_at__isnull=True), fields=["executor"], name="attempt_live"),
        ),
    ]
