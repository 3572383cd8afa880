"""The sensor of the landing folder: it asks for a run when a file is complete."""

import json
import time
from contextlib import closing
from hashlib import sha256

import dagster as dg

from usage_pipeline.defs.assets.landing import LANDED_FILES, LANDING_TAG
from usage_pipeline.defs.jobs import because
from usage_pipeline.events.landing.faults import due_files
from usage_pipeline.events.landing.folder import LandedFile, Landing, Look, folder_error
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.texts import counted

_FILES_PER_RUN = 100
# A file that still waits is asked for again after so long: its run failed, or its budget was spent.
_ASK_AGAIN_SECONDS = 600


def landed_files_sensor(settings: Settings) -> dg.SensorDefinition:
    """Looks every 10 s. A file is complete when two looks in a row find it unchanged."""

    @dg.sensor(
        name="landed_files",
        asset_selection=[LANDED_FILES],
        minimum_interval_seconds=9,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.landing_url else dg.DefaultSensorStatus.STOPPED,
        description="Reads files of usage events from LANDING_URL when they are complete: two looks found them unchanged.",
    )
    def landed_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # `settings` is no resource here, see drains.py.
        if settings.landing_url is None:
            return dg.SkipReason("LANDING_URL is not set.")
        try:
            look = Landing(settings.landing_url).look()
        except OSError as error:
            return dg.SkipReason(f"Cannot list the landing folder: {folder_error(error, settings.landing_url)}")
        try:
            with closing(connect(settings)) as connection:
                waiting = due_files(connection, look.files)
        except PostgresUnavailable as error:
            return dg.SkipReason(str(error))
        cursor = json.loads(context.cursor or "{}")
        seen: dict[str, str] = cursor.get("seen", {})
        asked: dict[str, float] = cursor.get("asked", {})
        now = time.time()
        due = [
            file
            for file in waiting
            if seen.get(file.address) == file.fingerprint and now - asked.get(_name(file), 0) >= _ASK_AGAIN_SECONDS
        ][:_FILES_PER_RUN]
        names = {_name(file) for file in waiting}
        asked = {name: at for name, at in asked.items() if name in names} | {_name(file): now for file in due}
        state = {"seen": {file.address: file.fingerprint for file in waiting}, "asked": asked}
        if not due:
            return dg.SensorResult(skip_reason=_said(look, waiting), cursor=json.dumps(state))
        if look.unread:
            context.log.warning(look.said)
        return dg.SensorResult(run_requests=[_request(due, now)], cursor=json.dumps(state))

    return landed_files


def _said(look: Look, waiting: list[LandedFile]) -> str:
    passed_over = len(look.files) - len(waiting)
    sentences = [
        f"{counted(len(waiting), 'file waits', 'files wait')}, none is due yet.",
        f"{counted(passed_over, 'more is', 'more are')} there: what waits for these, or cannot be read or moved."
        if passed_over
        else "",
        look.said,
    ]
    return " ".join(filter(None, sentences))


def _name(file: LandedFile) -> str:
    return f"{file.address} {file.fingerprint}"


def _request(files: list[LandedFile], now: float) -> dg.RunRequest:
    # With the time in it: the same files are asked for again only when an attempt has failed.
    attempt = f"{now // _ASK_AGAIN_SECONDS:.0f}"
    digest = sha256("\n".join([attempt, *map(_name, files)]).encode()).hexdigest()
    config = {"ops": {LANDED_FILES.to_python_identifier(): {"config": {"addresses": [file.address for file in files]}}}}
    why = because(f"{counted(len(files), 'complete file waits', 'complete files wait')} in the landing folder")
    return dg.RunRequest(
        run_key=f"landed:{digest}", run_config=config, asset_selection=[LANDED_FILES], tags={**LANDING_TAG, **why}
    )
