"""What a second terminal needs so that commands there work with the servers, folders and settings of `dev`."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from usage_pipeline.settings import Settings


def line_to_paste(variables: Mapping[str, str]) -> str:
    """A line for a shell in any folder. With it the shell finds this `usage-pipeline`, its Python, and the variables."""
    exports = "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    activate = Path(sys.prefix) / "bin" / "activate"
    # Without a virtual environment, the shell finds the command where it found this one.
    is_in_one = sys.prefix != sys.base_prefix and activate.exists()
    return f". {shlex.quote(str(activate))} && {exports}" if is_in_one else exports


def settings_to_repeat(settings: Settings) -> dict[str, str]:
    """The variables that `dev` was given, and that commands must have alike, such as USAGE_TIMEZONE. Without secrets."""
    given = sorted(settings.model_fields_set)
    return {name.upper(): str(getattr(settings, name)) for name in given if not _may_be_secret(name)}


def names_to_repeat(settings: Settings) -> list[str]:
    """The variables that were given and may hold a password, which nobody wants on a screen."""
    return [name.upper() for name in sorted(settings.model_fields_set) if _may_be_secret(name)]


def _may_be_secret(name: str) -> bool:
    found = Settings.model_fields[name]
    return "SecretStr" in str(found.annotation) or not found.repr
