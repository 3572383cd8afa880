"""What `dead-letters export` writes can be put right, landed again, and closed with the command that it tells."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from usage_pipeline_tests.drain.dead_letters.rig import World, key, landed, queued
from usage_pipeline_tests.drain.dead_letters.test_ways_out import paste
from usage_pipeline_tests.rigs.events import event


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_refused_events_are_put_right_landed_again_and_closed(world: World) -> None:
    rows = [event(team=..., input_tokens=number) for number in range(5)]
    landed(*rows[:3])(world)
    key(total_requests="many")(world)
    # A document whose items have several lines each.
    world.land("pretty.json", json.dumps(rows[3:], indent=2))
    answer = world.run("export", "out.jsonl", "--family", "usage_event", "--json").document
    assert (answer["exported"], answer["numbers"]) == (5, ["1-3", "5-6"])
    assert lines_of(Path("out.jsonl")) == rows, "each item as it came, on one line"
    assert Path("out.jsonl").stat().st_mode & 0o077 == 0
    mended = "\n".join(json.dumps(row | {"team": "search"}) for row in lines_of(Path("out.jsonl")))
    assert world.land("mended.jsonl", mended).inserted == 5
    status, said = paste(answer["close"])
    assert status == 0, said
    states = world.states()
    assert [states[number] for number in sorted(states)] == ["discarded"] * 3 + ["open"] + ["discarded"] * 2
    # A replay as well changes nothing: the events are there.
    world.run("replay", "1", "--set", "team=search", "--reason", "once more")
    assert world.query("select count(*) from analytics.usage_events") == [(5,)]


def test_what_came_in_meanwhile_is_not_closed_with_what_was_written(world: World) -> None:
    landed(event(team=...), event(team=...))(world)
    world.postgres.execute("update ops.dead_letters set dead_letter_id = default where position = 2")
    answer = world.run("export", "out.jsonl", "--json").document
    assert answer["numbers"] == ["1", "3"]
    assert answer["close"].startswith("usage-pipeline dead-letters discard 1 3 ")


def test_number_and_reason_are_beside_each_item_and_raw_bytes_are_exact(world: World) -> None:
    landed(event(team=...), '{"team": "sea')(world)
    key(total_requests="many")(world)
    queued(b"\xff{bad", "[1]")(world)
    world.redis.rpush("apikey:list:metrics", "x")
    world.drain()
    refused = world.run("export", "all.jsonl")
    assert "--family: expected one of api_key, event, usage_event, which are all here" in refused.said
    assert not Path("all.jsonl").exists()
    assert world.run("export", "all.jsonl", "--with-reasons").status == 0
    kept = {number: bytes(raw) for number, raw in world.query("select dead_letter_id, raw from ops.dead_letters")}
    found = lines_of(Path("all.jsonl"))
    assert [line["dead_letter_id"] for line in found] == sorted(kept)
    for line in found:
        raw = b64decode(line["raw_base64"]) if "raw_base64" in line else None
        assert raw == kept[line["dead_letter_id"]] or line["item"] == json.loads(kept[line["dead_letter_id"]])
        assert line["reason"]
    assert [(line["source_key"], line["position"]) for line in found[:2]] == [("u.jsonl", 1), ("u.jsonl", 2)]
    assert "item" in found[0]
    assert "raw_base64" in found[1]
    again = world.run("export", "all.jsonl", "--with-reasons")
    assert "all.jsonl: expected a file that can be made new" in again.said


def test_without_a_file_the_lines_are_on_standard_output_and_the_rest_is_not(world: World) -> None:
    row = event(team=...)
    landed(row)(world)
    queued("{bad")(world)
    answer = world.run("export", "--source", "u.jsonl")
    assert json.loads(answer.output) == row
    one = world.run("export", "-", "2")
    assert b64decode(json.loads(one.output)["raw_base64"]) == b"{bad"
