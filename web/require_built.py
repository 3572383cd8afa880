"""A hook of the package's build: no wheel without the page, which git does not have."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path("usage_pipeline", "api", "dashboard", "built", "index.html")


class RequireBuilt(BuildHookInterface[Any]):
    """Refuses what lacks the page. An editable installation may come before it: the service then says how to build it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises FileNotFoundError."""
        if version != "editable" and not Path(self.root, PAGE).exists():
            raise FileNotFoundError(
                f"{PAGE} is missing: run `make setup` or `python web/build.py`, and build the package again"
            )
