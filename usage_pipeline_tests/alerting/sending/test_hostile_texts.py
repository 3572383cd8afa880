"""What arrives when ids, reasons and errors are hostile: through each kind of service, against a local receiver.

All requests of Apprise's plugins go to the receiver, whichever host they name. What a service takes for a mention, a link or a
tag, and what it refuses, is written here from its documentation.
"""

import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import ProxyHandler, Request, build_opener
from xml.etree import ElementTree

import psycopg
import pytest
import requests
from pydantic import SecretStr

from usage_pipeline.alerting import record
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.rules import Judgement
from usage_pipeline.alerting.sending import webhooks
from usage_pipeline.alerting.sending.couriers import Courier
from usage_pipeline.alerting.sending.dispatch import send_due
from usage_pipeline.alerting.sending.messages import Due, Kind, Message
from usage_pipeline.settings import Settings

AT = datetime(2026, 11, 20, 13, tzinfo=UTC)
MARK = "id7f3a"
REMEDY = "Ask the owner of the key."
HOSTILE = [
    "<b>bold</b><img src=http://evil.example/beacon.png><a href='http://evil.example'>click</a><script>x</script>",
    "unfinished <b <i>tags & &amp; &nbsp; &bogus; > < </",
    "[click](http://evil.example) ![i](http://evil.example/b.png) [r]: http://evil.example <http://evil.example>",
    "@everyone @here @channel @all x@everyone <!channel> <!everyone> <!subteam^S1> <@U123> <@&123> <@!1> <#C1> @bob",
    "<http://evil.example|Click here> <mailto:a@evil.example|mail> www.evil.example HTTPS://EVIL.example javascript:x",
    "*_`~|>#- ``` **b** __u__ ||s|| > q # h - l",
    "line\n# forged\r\nSubject: forged\rX: y\u2028z\u2029z\x85z\vz\fz",
    "\x1b[31mred\x1b]0;title\x07 \x9b31m \x7f \x08\x08\x08",
    "\u202eesrever\u202c \u2066x\u2069 \u200bzero\u200d \ufeff \U000e0041 \ufffe",
    "nul \0 surrogates \ud800 \udfff \udc80",
    "very long " + "é😀<&_@everyone " * 2_000,
    "x" * 100_000,
    "&" * 5_000,
    "😀" * 5_000,
]
# What Telegram's HTML mode knows: other tags and other named entities are refused, with the whole message.
TELEGRAM_TAGS = {
    "b",
    "strong",
    "i",
    "em",
    "u",
    "ins",
    "s",
    "strike",
    "del",
    "code",
    "pre",
    "a",
    "tg-spoiler",
    "blockquote",
}
TELEGRAM_ENTITY = re.compile(r"&(?!(lt|gt|amp|quot|#[0-9]+|#x[0-9a-fA-F]+);)")


class Receiver:
    """Takes every request, and keeps host, body and type of each."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.bodies.append((self.path, body))
                answer = b"ok" if "slack" in self.path else b'{"ok": true, "requestId": "1", "status": "done"}'
                self.send_response(201 if "twilio" in self.path else 202 if "/v2/" in self.path else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    send = requests.adapters.HTTPAdapter.send

    def send_here(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        request.url = f"http://127.0.0.1:{found.server.server_address[1]}/{parts.netloc}{parts.path}"
        return send(self, request, **options | {"proxies": {}})

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send_here)
    monkeypatch.setattr(webhooks, "build_opener", lambda *_: _OpenerHere(found.server.server_address[1]))
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join(10)


class _OpenerHere:
    """In place of urllib's, for the plain addresses."""

    def __init__(self, port: int) -> None:
        self._port = port

    def open(self, request: Request, timeout: float) -> Any:
        here = f"http://127.0.0.1:{self._port}/{urlsplit(request.full_url).netloc}{request.selector}"
        moved = Request(here, request.data, dict(request.header_items()), method="POST")
        return build_opener(ProxyHandler({})).open(moved, timeout=timeout)


class Mailbox(socketserver.ThreadingTCPServer):
    """As much of SMTP as a client needs to send its mail."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[bytes] = []
        box = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    if line.upper().startswith(b"DATA"):
                        self.wfile.write(b"354 go on\r\n")
                        box.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                    self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")

        super().__init__(("127.0.0.1", 0), Handler)


def field(*names: str | int) -> Callable[[bytes], list[str]]:
    """Reads the text at one place of a JSON document."""

    def read(body: bytes) -> list[str]:
        value: Any = json.loads(body)
        for name in names:
            value = value[name]
        return [value]

    return read


def fields(*readers: Callable[[bytes], list[str]]) -> Callable[[bytes], list[str]]:
    return lambda body: [text for read in readers for text in read(body)]


def form(*names: str) -> Callable[[bytes], list[str]]:
    return lambda body: [parse_qs(body.decode(), keep_blank_values=True, errors="strict")[name][0] for name in names]


def xml(body: bytes) -> list[str]:
    found = ElementTree.fromstring(body)  # noqa: S314  # our own Apprise wrote it
    return [
        element.text or "" for name in ("Subject", "Message") for element in found.iter() if element.tag.endswith(name)
    ]


_CARD = ("attachments", 0, "content", "body")
# Address, where the service finds text, and the most characters of each text (UTF-16).
SERVICES: dict[str, tuple[str, Callable[[bytes], list[str]], tuple[int, ...]]] = {
    "slack": (
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/",
        fields(field("attachments", 0, "title"), field("attachments", 0, "text")),
        (3_000, 40_000),
    ),
    "discord": ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", field("content"), (2_000,)),
    "telegram": ("tgram://123456789:abcdefg_hijklmnop/12315544/", field("text"), (4_096 * 6,)),
    "pagerduty": ("pagerduty://integration@key/source/component", field("payload", "summary"), (1_024,)),
    "teams": (
        "workflows://prod-03.westus.logic.azure.com:443/643e69f83c8944/signature",
        fields(field(*_CARD, 1, "text"), field(*_CARD, 2, "text")),
        (1_000, 1_000),
    ),
    "mattermost": ("mmost://host/3ccdd113474722377935511fc85d3dd4", field("text"), (4_000,)),
    "google chat": ("gchat://workspace/key/token", field("text"), (4_000,)),
    "rocket.chat": ("rocket://3ccdd113474722377935/511fc85d3dd4@host/#general", field("text"), (1_000,)),
    "webex": (f"wxteams://{'a' * 80}", field("markdown"), (7_439,)),
    "zulip": (f"zulip://bot@apprise/{'a' * 32}", form("topic", "content"), (60, 10_000)),
    "gotify": (f"gotify://host/{'a' * 16}", fields(field("title"), field("message")), (250, 3_000)),
    "pushover": (f"pover://{'a' * 30}@{'b' * 30}", form("title", "message"), (250, 1_024)),
    "twilio": (f"twilio://AC{'a' * 32}:{'b' * 32}@12223334444", form("Body"), (160,)),
    "a webhook": ("json://127.0.0.1/", fields(field("title"), field("message")), (250, 3_000)),
    "https": ("https://host/path", fields(field("title"), field("message")), (250, 3_000)),
    "a form": ("form://127.0.0.1/", form("title", "message"), (250, 3_000)),
    "XML": ("xml://127.0.0.1/", xml, (250, 3_000)),
}


def message(hostile: str, kind: Kind = "raised", times: int = 1) -> Message:
    alert = Alert(
        "abnormal-usage", f"abnormal-usage:{hostile}", "warning", f"{MARK} {hostile}", f"{MARK} {hostile}", REMEDY
    )
    said = (alert.title, alert.text, alert.remedy, None, alert.ending)
    due = Due("x", kind, 7, alert.rule, alert.severity, *said, first_at=AT, last_at=AT, count=2, was_told=True)
    return Message((due,) * times)


def send(url: str, one: Message) -> str | None:
    """What went wrong."""
    there = Courier([SecretStr(url)], 30.0)
    [*_, channel] = there.channels
    return there.send({channel.key: one})[channel.key]


def expect_harmless(text: str) -> None:
    """No service reads a mention, a link or a tag in it, and nothing in it turns or hides other text."""
    told = text.replace("\u200b", "\0")  # the break that we put in: no part of a name
    for call in ("@everyone", "@here", "@channel", "@all", "@bob", "<!", "<@", "<#"):
        assert call not in told.lower()
    assert not re.search(r"(?<!\\)\](?<!\\)\(|://|www\.|javascript:x|mailto:a", told, re.IGNORECASE)
    assert not re.search(r"<[a-z/]", told, re.IGNORECASE)
    odd = {character for character in text if not (character.isprintable() or character in "\u200b\r\n")}
    assert odd == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_message_arrives_within_the_limits_of_its_service_and_calls_nobody(
    receiver: Receiver, service: str
) -> None:
    url, read, limits = SERVICES[service]
    raised, cleared = [message(hostile) for hostile in HOSTILE], [message(HOSTILE[3], "cleared")]
    raised += [message(hostile, times=30) for hostile in HOSTILE]
    for sent in raised + cleared:
        receiver.bodies.clear()
        assert send(url, sent) is None
        [(_, body)] = receiver.bodies
        texts = read(body)
        assert MARK in "".join(texts)
        for text, most in zip(texts, limits, strict=True):
            assert len(text.encode("utf-16-le")) // 2 <= most
            expect_harmless(shown_by_telegram(text) if service == "telegram" else text)
        if service == "slack":
            assert not re.search(r"<|&(?!(lt|gt|amp);)", "".join(texts))
        # A text message of 160 characters has no place for it.
        if service != "twilio" and sent in raised:
            assert REMEDY.rstrip(".") in "".join(texts).replace("\\", ""), "what to do is not what is cut"


def shown_by_telegram(text: str) -> str:
    """The text that Telegram shows, after the rules of its HTML mode."""
    open_tags: list[str] = []
    shown: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in TELEGRAM_TAGS
            assert attrs == []
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_data(self, data: str) -> None:
            shown.append(data)

    assert not TELEGRAM_ENTITY.search(text)
    reader = Reader(convert_charrefs=True)
    reader.feed(text)
    reader.close()
    assert open_tags == []
    whole = "".join(shown)
    assert len(whole.encode("utf-16-le")) // 2 <= 4_096
    return whole


def test_a_mail_is_plain_text_with_its_own_headers_only() -> None:
    with Mailbox() as box:
        thread = threading.Thread(target=box.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        port = box.server_address[1]
        url = f"mailto://127.0.0.1:{port}?smtp=127.0.0.1&mode=insecure&from=a@example.com&to=b@example.com"
        for hostile in HOSTILE:
            box.mails.clear()
            assert send(url, message(hostile)) is None
            [raw] = box.mails
            mail = message_from_bytes(raw, policy=policy.default)
            assert [part.get_content_type() for part in mail.walk() if not part.is_multipart()] == ["text/plain"]
            assert mail["X"] is None
            assert mail.get_all("Subject") == [mail["Subject"]]
            content = mail.get_body().get_content()  # type: ignore[union-attr]
            for text in (mail["Subject"], content):
                assert MARK in text
                expect_harmless(text)
            assert REMEDY in content
        box.shutdown()
        thread.join(10)


def test_the_log_gets_one_line_for_each_alert(caplog: pytest.LogCaptureFixture) -> None:
    for hostile in HOSTILE:
        Courier([], 1.0).send({"log": message(hostile)})
    for line in caplog.messages:
        assert "\n" not in line
        expect_harmless(line)
    assert len(caplog.messages) == len(HOSTILE)


def test_no_id_keeps_an_alert_from_being_noted_and_sent(
    receiver: Receiver, postgres: psycopg.Connection, settings: Settings
) -> None:
    texts = [text[:200] for text in HOSTILE]
    alerts = [
        Alert("abnormal-usage", f"abnormal-usage:api_key:{text}", "warning", text, text, REMEDY) for text in texts
    ]
    opened, _ = record.note_judgement(postgres, Judgement(tuple(alerts), frozenset({"abnormal-usage"})), settings)
    assert opened == len(set(texts))
    again, cleared = record.note_judgement(postgres, Judgement(tuple(alerts), frozenset({"abnormal-usage"})), settings)
    assert (again, cleared) == (0, 0), "the stored keys are the keys"
    assert send_due(postgres, Courier([SecretStr("json://127.0.0.1/")], 30.0)) == (1, 0)
    assert f"{opened} alerts of abnormal-usage" in receiver.bodies[0][1].decode()
