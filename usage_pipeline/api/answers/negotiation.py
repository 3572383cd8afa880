"""What a client prefers, by the headers Accept, Accept-Encoding and If-None-Match (RFC 9110 §12.5, §13.1)."""

from collections.abc import Iterator

# No browser sends a tenth of it. What comes after it does not count: 60,000 commas take 0.1 s.
_READ_CHARACTERS = 2_048


def prefers_html(accept: str) -> bool:
    """Whether this Accept header prefers text/html to JSON, as browsers do. `*/*` alone, or no header, does not."""
    html = json = 0.0
    for media_type, quality in _weighted(accept):
        if media_type in ("text/html", "application/xhtml+xml"):
            html = max(html, quality)
        elif media_type in ("application/json", "application/*"):
            json = max(json, quality)
    return html > json


def takes_gzip(accept_encoding: str) -> bool:
    """Whether this Accept-Encoding header allows gzip. No header does not: who cannot unpack might not say so."""
    weights = dict(_weighted(accept_encoding))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def is_known(tag: str, if_none_match: str) -> bool:
    """Whether this If-None-Match header names the entity tag, so that its body need not be sent. `tag` has its quotes."""
    named = [one.strip().removeprefix("W/") for one in _listed(if_none_match)]
    return tag in named or named == ["*"]


def _listed(header: str) -> list[str]:
    return header[:_READ_CHARACTERS].split(",")


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    for part in _listed(header):
        value, *parameters = (piece.strip().lower() for piece in part.split(";"))
        yield value, _quality(parameters)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
