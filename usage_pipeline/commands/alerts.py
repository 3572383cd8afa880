"""`usage-pipeline alerts`: lists the open alerts of the table ops.alerts."""

from contextlib import closing
from dataclasses import asdict

from usage_pipeline.commands.options import AsJson
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted


def alerts(as_json: AsJson = False) -> None:
    """List the open alerts, oldest first, and what to do about each."""
    from usage_pipeline.alerting.record import open_alerts
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        found = open_alerts(connection)
    if as_json:
        print_json({"alerts": [asdict(one) for one in found]})
        return
    rows = [(one.alert_id, f"{one.first_at:%m-%d %H:%M}", one.rule, one.title, one.delivery_error) for one in found]
    print_table(counted(len(found), "open alert"), ["number", "since", "rule", "title", "not delivered"], rows)
    for one in found:
        say("")
        say(f"{one.alert_id}: {one.text}")
        say(f"What to do: {one.remedy}")
