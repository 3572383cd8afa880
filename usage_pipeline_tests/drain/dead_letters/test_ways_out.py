"""What `dead-letters show` advises is done literally, for each kind of dead letter, and `discard` decides and keeps."""

import json
import shlex
from base64 import b64decode
from pathlib import Path

import pytest
from typer.testing import CliRunner

from usage_pipeline.cli import app
from usage_pipeline_tests.drain.dead_letters.rig import CASES, KEYS, Case, World, key, landed, queued
from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.rigs.events import event


def advised(world: World, number: int) -> list[str]:
    answer = world.run("show", str(number), "--json")
    assert answer.status == 0, answer
    return [one["command"] for one in answer.document["advice"]]


def paste(command: str, value: str = "", why: str = "it is known") -> tuple[int, str]:
    """Runs a command that was told, with only its placeholders filled in."""
    words = shlex.split(command)
    assert words[0] == "usage-pipeline"
    filled = [word.replace("=VALUE", f"={value}") if "=" in word else why if word == "WHY" else word for word in words]
    result = CliRunner().invoke(app, filled[1:])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_first_advice_done_literally_counts_it_once_or_says_how_it_can_be_sent_again(
    world: World, case: Case
) -> None:
    case.make(world)
    [number] = world.states()
    command = advised(world, number)[0]
    assert case.does in command
    assert "WHY" not in command or paste(command, case.value, "WHY")[0] != 0, "a placeholder is no reason"
    if "VALUE" in command:
        assert paste(command, "VALUE")[0] != 0, "and no value"
    case.meanwhile(world)
    for _ in range(2):
        status, said = paste(command, case.value)
        assert status == 0, said
        if not case.counts:
            break
    assert world.query(case.query) == case.numbers
    assert world.states() == {number: "counted" if case.counts else "open"}


def test_each_kind_can_be_discarded_as_it_is_told_and_counts_nothing_then(world: World) -> None:
    for case in CASES:
        case.make(world)
    before = [world.query(case.query) for case in CASES]
    numbers = world.states()
    assert len(numbers) == len(CASES)
    for number in numbers:
        status, said = paste(advised(world, number)[-1])
        assert status == 0, said
    assert world.states() == dict.fromkeys(numbers, "discarded")
    assert [world.query(case.query) for case in CASES] == before
    assert world.run("list").output.startswith("0 dead letters")
    kept = world.query("select distinct discard_reason, discarded_by like '%@%', replayed_at from ops.dead_letters")
    assert kept == [("it is known", True, None)]


def test_a_discarded_one_is_replayed_by_its_own_number_only(world: World) -> None:
    key(total_requests=5, total_file_size=-1)(world)
    [number] = world.states()
    assert world.run("discard", str(number), "--reason", "a test").status == 0
    assert world.run("discard", str(number), "--reason", "again", "--json").document["were_discarded"] == [number]
    change = ("--set", "total_file_size=3", "--reason", "it was one after all", "--yes")
    for choice in ([f"1-{number}"], ["--source", "apikey:k:metrics"]):
        assert world.run("replay", *choice, *change, "--json").document["replayed"] == 0
    assert world.run("replay", "--json").document == {"success": True, "replayed": 0, "refused": [], "in_part": []}
    assert world.run("replay", str(number), *change).status == 0
    assert world.query(KEYS) == [(5, 3)]
    [shown] = world.run("list", "--all", "--json").document["dead_letters"]
    assert (shown["state"], shown["discard_reason"]) == ("counted", "a test"), "both are kept"
    late = world.run("discard", str(number), "--reason", "too late", "--json")
    assert (late.status, late.document["counted"]) == (1, [number])


def test_many_need_a_yes_and_the_answer_says_how_many(world: World) -> None:
    landed(*[event(team=...) for _ in range(12)])(world)
    landed(*[event(team=...) for _ in range(3)], name="other.jsonl")(world)
    key(total_requests="many")(world)
    numbers = sorted(world.states())
    for choice in (
        [f"{numbers[0]}-{numbers[11]}"],
        ["--source", "u.jsonl"],
        ["--family", "usage_event", "--source", "u.jsonl"],
    ):
        answer = world.run("discard", *choice, "--reason", "sent again")
        assert answer.status != 0
        assert answer.said.startswith(
            f"12 open dead letters, numbers {numbers[0]} to {numbers[11]} (12 of usage_event)"
        )
        assert "--yes" in answer.said
    assert set(world.states().values()) == {"open"}
    assert world.run("discard", "--source", "u.jsonl", "--reason", "sent again", "--yes").status == 0
    assert list(world.states().values()) == ["discarded"] * 12 + ["open"] * 4
    answer = world.run("replay", f"{numbers[0]}-{numbers[-1]}", "--set", "team=search", "--reason", "the default team")
    assert "4 open dead letters" in answer.said
    answer = world.run("replay", "--source", "other.jsonl", "--set", "team=search", "--reason", "r", "--yes", "--json")
    assert answer.document["replayed"] == 3
    assert world.query("select team, count(*) from analytics.usage_events group by 1") == [("search", 3)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["discard", "--reason", "r"], "expected numbers of dead letters, --family or --source, came none"),
        (["discard", "1", "--reason", " "], "--reason: expected a reason in your words"),
        (["discard", "4242", "--reason", "r"], "no dead letter has the number 4242"),
        (["replay", "4242", "4243"], "no dead letter has the numbers 4242, 4243"),
        (["discard", "4242-5000", "--reason", "r", "--yes"], "no dead letter has a number from 4242 to 5000"),
        (["discard", "9-7", "--reason", "r"], "expected one number, or a range such as 17-2016, came '9-7'"),
        (["replay", "0"], "expected one number, or a range"),
        (["replay", "1-x"], "expected one number, or a range"),
        (["replay", "99999999999999999999"], "expected one number, or a range"),
        (["replay", "--source", "nowhere.jsonl"], "no dead letter came from the file or key 'nowhere.jsonl'"),
        (["replay", "1", "--set", "a=b"], "--reason: expected a reason in your words, because it changes"),
        (["replay", "--set", "a=b", "--reason", "r"], "--set: expected the numbers"),
        (
            ["replay", "1", "--set", "a=1", "--unset", "a", "--reason", "r"],
            "--unset: expected a member that --set does not",
        ),
        (["show", "4242"], "no dead letter has the number 4242"),
        (["export", "--family", "nope"], "--family: expected one of"),
        (["export", "17-20"], "expected a file, or - for standard output, before numbers"),
        (["export", "--json"], "--json: expected a file"),
    ],
)
def test_a_choice_of_nothing_and_a_change_without_a_reason_are_refused(
    world: World, arguments: list[str], expected: str
) -> None:
    answer = world.run(*arguments)
    assert answer.status != 0
    assert expected in answer.said


def test_to_replay_or_discard_nothing_says_why(world: World) -> None:
    assert world.run("replay").output.strip() == "Nothing to replay: there is no dead letter at all."
    world.land("u.jsonl", "".join(f"{json.dumps(event(team=...))}\n" for _ in range(3)))
    first, second, third = sorted(world.states())
    assert world.run("discard", str(first), "--reason", "r").status == 0
    fix = ("--set", "team=search", "--reason", "r")
    assert "Replayed 1 of 1 dead letter." in world.run("replay", str(second), *fix).output
    assert "counts already" in world.run("replay", str(second)).output
    assert world.run("replay", str(third), *fix).status == 0
    for choice, which in ((["replay"], "at all"), (["replay", "--source", "u.jsonl"], "of this choice")):
        answer = world.run(*choice)
        assert answer.status == 0
        assert (
            f"Nothing to replay: no dead letter {which} is open: 2 count already and 1 was discarded" in answer.output
        )
    answer = world.run("discard", f"{first}-{third}", "--reason", "r", "--yes")
    assert "Nothing to discard: no dead letter of this choice is open" in answer.output
    assert (
        "Nothing to replay: there is no dead letter of this choice." in world.run("replay", "--family", "token").output
    )


def test_show_has_all_that_is_known_escaped_and_cut(world: World) -> None:
    evil = event(team=..., model="\x1b[2J", extra={"long": "x" * 9_000})
    world.land("u.jsonl", f"\n{json.dumps(evil, ensure_ascii=False).replace(chr(27), chr(27))}\n")
    queued(event_item(user_id=None), b'\x1b]0;title\x07{"bad')(world)
    first, *others = sorted(world.states())
    for number in others:
        assert "\x1b" not in world.run("show", str(number)).output
    answer = world.run("show", str(first), "--raw", "raw.json")
    for part in ("usage_event", "u.jsonl, line 2", "missing required field `team`", "open", "bytes"):
        assert part in " ".join(answer.output.split()), part
    assert len(answer.output) < 9_000
    assert json.loads(Path("raw.json").read_bytes()) == evil
    assert Path("raw.json").stat().st_mode & 0o077 == 0
    whole = world.run("show", str(first), "--json").document
    assert json.loads(b64decode(whole["raw_base64"])) == json.loads(whole["raw"]) == evil
    assert (whole["place"], whole["attempts"], whole["tried_at"]) == ("line 2", 0, None)
    assert world.run("replay", str(first)).status == 1
    again = world.run("show", str(first), "--json").document
    assert again["attempts"] == 1
    assert again["tried_at"] is not None
    assert world.run("show", str(first), "--raw", "raw.json").said.startswith(
        "raw.json: expected a file that can be made"
    )
