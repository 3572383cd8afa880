"""How our own processes log: one line for each record, whatever it holds. Dagster's processes log as Dagster does."""

import logging

from usage_pipeline.texts import visible


class LineFormatter(logging.Formatter):
    """A record is one line. The lines of a traceback are indented, so that none can pass for a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return visible(super().formatMessage(record))

    def formatException(self, *arguments: object) -> str:  # noqa: N802  # logging's name
        text = super().formatException(*arguments)  # type: ignore[arg-type]  # as logging calls it
        return "\n".join(f"  {visible(line)}" for line in text.splitlines())


def log_to_stderr() -> None:
    """Writes records from INFO on to standard error, unless the root logger has a handler already."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
