"""Prices of one's own are layers above the package: a row changes what it says, of the models it names, and nothing else."""

import io
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.events.pricing.coverage import coverage_faults
from usage_pipeline.events.pricing.explanation import explain
from usage_pipeline.events.pricing.lookups import (
    add_lookups,
    current_version,
    has_price_version,
    is_looked_up,
    look_up,
)
from usage_pipeline.events.pricing.own_file import PriceTableError, read_own_prices, write_own_prices
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import import_prices, newest_version, own_prices
from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline_tests.events.pricing.random_usage import Counts, all_models, our_cost

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MILLIONS: Counts = {"input_tokens": 2_000_000, "cache_read_tokens": 1_000_000, "output_tokens": 1_000_000}


def rows(tmp_path: Path, *lines: str, header: str = "provider,model,priced_as,factor,input_mtok") -> list[OwnPrice]:
    path = tmp_path / "prices.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return list(read_own_prices(path))


def cost(
    provider: str,
    model: str,
    own: Sequence[OwnPrice],
    *,
    tier: str = "",
    at: datetime = AT,
    usage: Counts = MILLIONS,
) -> Decimal | None:
    return our_cost(look_up(provider, model, tier, own).prices, at, usage)


def test_one_line_for_one_unit_of_one_model_changes_nothing_else(tmp_path: Path) -> None:
    own = rows(tmp_path, "openai,gpt-4o,,,2")
    # 1 M uncached at 2 instead of 2.50; cached and generated tokens cost what the package says.
    assert cost("openai", "gpt-4o", ()) == Decimal("2.5") + Decimal("1.25") + 10
    assert cost("openai", "gpt-4o", own) == 2 + Decimal("1.25") + 10
    assert cost("OpenAI", "GPT-4o", own) == 2 + Decimal("1.25") + 10
    assert cost("openai", "openai/gpt-4o", own) == 2 + Decimal("1.25") + 10
    chance = random.Random(3)
    others = [
        (provider.id, model.id) for provider, model in all_models() if (provider.id, model.id) != ("openai", "gpt-4o")
    ]
    for provider, model in chance.sample(others, 200):
        assert look_up(provider, model, "", own) == look_up(provider, model), (provider, model)
    # The gateway's model of that name is another one.
    assert look_up("openrouter", "openai/gpt-4o", "", own) == look_up("openrouter", "openai/gpt-4o")


def test_layers_lie_above_each_other_and_a_factor_multiplies_what_is_below_it(tmp_path: Path) -> None:
    own = rows(
        tmp_path,
        "openai,*,,0.5,",
        "openai,gpt-4*,,0.9,",
        "openai,gpt-4o,,2,4",
        "*,*,,0.1,",
    )
    # The longest pattern alone holds: 0.9. The exact row doubles it, but for the price that it states itself.
    assert cost("openai", "gpt-4o", own) == 4 + (Decimal("1.25") + 10) * Decimal("1.8")
    plain = cost("openai", "gpt-4.1", ())
    assert plain
    assert cost("openai", "gpt-4.1", own) == plain * Decimal("0.9")
    assert cost("openai", "o3", own) == (cost("openai", "o3", ()) or 0) * Decimal("0.5")
    assert cost("groq", "llama-3.3-70b-versatile", own) == (cost("groq", "llama-3.3-70b-versatile", ()) or 0) / 10


def test_an_alias_takes_the_prices_of_the_model_it_names(tmp_path: Path) -> None:
    own = rows(tmp_path, "azure,my-team,openai/gpt-4o,,", "azure,team-*,azure/gpt-4o,0.8,", "azure,team-b,,,1")
    assert cost("azure", "my-team", own) == cost("openai", "gpt-4o", ())
    assert look_up("azure", "my-team", "", own).priced_as == "openai/gpt-4o"
    assert cost("azure", "team-a", own) == (cost("azure", "gpt-4o", ()) or 0) * Decimal("0.8")
    assert cost("azure", "team-b", own) == 1 + (Decimal("1.25") + 10) * Decimal("0.8")
    assert cost("azure", "other", own) is None
    # Batch is half for a model under its alias, too.
    assert cost("azure", "my-team", own, tier="batch", usage={"input_tokens": 1_000_000}) == Decimal("1.25")


def test_the_least_charge_for_audio_is_that_of_the_model_whose_prices_hold(tmp_path: Path) -> None:
    usage: Counts = {"audio_seconds": 3, "input_audio_seconds": 3}
    whisper, turbo = (
        cost("openai", "whisper-1", (), usage=usage),
        cost("groq", "whisper-large-v3-turbo", (), usage=usage),
    )
    assert whisper == Decimal("0.0003")
    header = "provider,model,priced_as,valid_from"
    own = rows(tmp_path, "groq,whisper-large-v3-turbo,openai/whisper-1,2026-11-20", header=header)
    before = datetime(2026, 11, 19, tzinfo=UTC)
    assert cost("groq", "whisper-large-v3-turbo", own, usage=usage) == whisper
    assert cost("groq", "whisper-large-v3-turbo", own, usage=usage, at=before) == turbo
    own = rows(tmp_path, "openai,whisper-1,groq/whisper-large-v3-turbo,2026-11-20", header=header)
    assert cost("openai", "whisper-1", own, usage=usage) == turbo
    assert cost("openai", "whisper-1", own, usage=usage, at=before) == whisper


@pytest.mark.parametrize(
    ("provider", "model", "shortened", "usd"),
    [
        # Batch is half of the usual price that the row states.
        ("azure", "azure/gpt-4o", "gpt-4o", "4.5"),
        ("openai", "gpt-4o-2025-01-31", "gpt-4o", "4.5"),
        ("aws", "eu.acme.model-x", "acme.model-x", "9"),
    ],
)
def test_a_row_with_exactly_the_name_comes_before_the_one_of_the_shortened_name(
    tmp_path: Path, provider: str, model: str, shortened: str, usd: str
) -> None:
    usage: Counts = {"input_tokens": 1_000_000}
    header = "provider,model,service_tier,valid_from,input_mtok,output_mtok"
    exact, other = f"{provider},{model},,,9,9", f"{provider},{shortened},batch,2026-01-01,1,1"
    for lines in ((exact, other), (other, exact)):
        own = rows(tmp_path, *lines, header=header)
        assert cost(provider, model, own, tier="batch", usage=usage) == Decimal(usd)
        assert explain(provider, model, "batch", AT, own).own_rows == (f"{provider}/{model}",)
        assert cost(provider, shortened, own, tier="batch", usage=usage) == 1


def test_of_patterns_the_one_with_the_most_letters_holds_whichever_spelling_it_meets(tmp_path: Path) -> None:
    own = rows(tmp_path, "azure,*,,,9", "azure,gpt-4o*,,,1")
    assert cost("azure", "azure/gpt-4o", own, usage={"input_tokens": 1_000_000}) == 1


def test_a_model_of_ones_own_costs_what_its_rows_say_in_every_tier(tmp_path: Path) -> None:
    own = rows(
        tmp_path,
        "house,llama,,0.1,0.2,",
        "house,llama,batch,0.05,0.2,",
        "house,free,,0,0,0",
        header="provider,model,service_tier,input_mtok,output_mtok,requests_kcount",
    )
    assert cost("house", "llama", own) == Decimal("0.4")
    assert cost("house", "llama", own, tier="priority") == Decimal("0.4")
    assert cost("house", "llama", own, tier="batch") == Decimal("0.3")
    assert cost("house", "free", own) == 0
    assert look_up("house", "llama", "", own).priced_as == "own"
    assert cost("house", "other", own) is None


def test_a_usual_price_of_ones_own_changes_with_the_tier_as_that_of_the_package_does(tmp_path: Path) -> None:
    own = rows(tmp_path, "openai,gpt-4o-mini,,,0.1")
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    assert cost("openai", "gpt-4o-mini", own, usage=usage) == Decimal("0.1")
    assert cost("openai", "gpt-4o-mini", own, tier="batch", usage=usage) == Decimal("0.05")
    assert cost("openai", "gpt-4o-mini", own, tier="default", usage=usage) == Decimal("0.1")
    of_batch = rows(tmp_path, "openai,gpt-4o-mini,batch,0.07", header="provider,model,service_tier,input_mtok")
    assert cost("openai", "gpt-4o-mini", of_batch, tier="batch", usage=usage) == Decimal("0.07")
    assert cost("openai", "gpt-4o-mini", of_batch, usage=usage) == Decimal("0.15")


def test_a_row_holds_from_and_until_its_times_and_the_one_that_began_last_comes_first(tmp_path: Path) -> None:
    own = rows(
        tmp_path,
        "openai,gpt-4o,2026-11-01,,2",
        "openai,gpt-4o,2026-11-15T08:00:00+02:00,2026-11-16,3",
        header="provider,model,valid_from,valid_until,input_mtok",
    )
    usage = {"input_tokens": 1_000_000}
    changes = {
        datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC): "2.5",
        datetime(2026, 11, 1, tzinfo=UTC): "2",
        datetime(2026, 11, 15, 5, 59, 59, tzinfo=UTC): "2",
        datetime(2026, 11, 15, 6, tzinfo=UTC): "3",
        datetime(2026, 11, 16, tzinfo=UTC): "2",
    }
    for at, usd in changes.items():
        assert cost("openai", "gpt-4o", own, at=at, usage=usage) == Decimal(usd), at
    shown = explain("openai", "gpt-4o", "", datetime(2026, 11, 15, 6, tzinfo=UTC), own)
    [price] = [one for one in shown.prices if one.price_key == "input_mtok"]
    assert (price.usd, price.layer, price.of) == ("3", "own", "openai/gpt-4o")
    assert (price.valid_from, price.valid_until) == ("2026-11-15T06:00:00Z", "2026-11-16T00:00:00Z")
    [other] = [one for one in shown.prices if one.price_key == "output_mtok"]
    assert (other.usd, other.layer) == ("10", "package")


def test_thresholds_of_the_package_stay_where_a_row_only_has_a_factor(tmp_path: Path) -> None:
    own = rows(tmp_path, "google,gemini-2.5-pro,,0.5,")
    for size in (200_000, 200_001):
        usage = {"input_tokens": size, "output_tokens": 9}
        assert cost("google", "gemini-2.5-pro", own, usage=usage) == (
            (cost("google", "gemini-2.5-pro", (), usage=usage) or 0) / 2
        )


@pytest.mark.parametrize("text", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_files_of_spreadsheets_are_read(tmp_path: Path, text: str, delimiter: str) -> None:
    path = tmp_path / "prices.csv"
    lines = ["provider,model,input_mtok,valid_from", '"OpenAI","gpt-4o",2.50,2026-01-01', ",,,", ""]
    path.write_bytes("\r\n".join(lines).replace(",", delimiter).encode(text))
    [row] = read_own_prices(path)
    assert row == OwnPrice(
        "openai", "gpt-4o", valid_from=datetime(2026, 1, 1, tzinfo=UTC), prices={"input_mtok": Decimal("2.5")}
    )


HEADER = "provider,model,priced_as,factor,service_tier,valid_from,valid_until,input_mtok"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (",m,,,,,,1", "line 2: provider: expected 1 to 200 characters, came 0"),
        ("p,,,,,,,1", "line 2: model: expected 1 to 200 characters, came 0"),
        ("p,m,,,,,,", "line 2: expected a priced_as, a factor or a price, came a row without any of them"),
        ("p,m,,,,,,-1", "line 2: input_mtok: expected a number such as 2.50, came '-1'"),
        ('p,m,,,,,,"2,50"', "line 2: input_mtok: expected a number such as 2.50, came '2,50'"),
        ("p,m,,,,,,NaN", "line 2: input_mtok: expected a number such as 2.50, came 'NaN'"),
        ("p,m,,,,,,1000001", "line 2: input_mtok: expected 0 to 1,000,000, came '1000001'"),
        (f"p,m,,,,,,0.{'1' * 40}", "line 2: input_mtok: expected at most 28 digits"),
        ("p,m,,1001,,,,", "line 2: factor: expected 0 to 1,000, came '1001'"),
        (
            "p,m,gpt-4o,,,,,",
            "line 2: priced_as: expected provider/model of the package, such as openai/gpt-4o, came 'gpt-4o'",
        ),
        (
            "p,m,openai/gpt4o,,,,,",
            "line 2: priced_as: expected a model of the price package, came 'openai/gpt4o'; the nearest one is openai/gpt-4o",
        ),
        (
            "p,m,,,,yesterday,,1",
            "line 2: valid_from: expected a date YYYY-MM-DD, from midnight UTC, or a time with its offset",
        ),
        ("p,m,,,,2026-01-01T00:00:00,,1", "line 2: valid_from: expected a date"),
        (
            "p,m,,,,2026-01-02,2026-01-02,1",
            "line 2: valid_until: expected more than valid_from = 2026-01-02, came 2026-01-02",
        ),
        ("p,m,,,,,,1,2", "line 2: expected 8 values, came 9"),
        (
            "p,m,,,,,,1\nP,M,,,,,,2",
            "line 3: expected one row for each provider, model, service_tier and valid_from, came those of line 2",
        ),
    ],
)
def test_faults_are_told_with_their_line_what_was_expected_and_what_came(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(PriceTableError) as raised:
        rows(tmp_path, line, header=HEADER)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("provider,input_mtok", "missing: 'model'"),
        ("provider,model,input_mtokens", "unknown: 'input_mtokens'"),
        ("provider,model,factor,factor", "twice: 'factor'"),
        ("", "missing: 'provider, model'"),
        ("provider,model,input_usd,request_usd", "input_usd is now input_mtok; request_usd is now requests_kcount"),
    ],
)
def test_a_wrong_header_is_told_with_the_columns_of_now(tmp_path: Path, header: str, told: str) -> None:
    with pytest.raises(PriceTableError, match="line 1: expected the") as raised:
        rows(tmp_path, header=header)
    assert told in str(raised.value)


def test_all_faults_are_told_but_no_more_than_ten(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match=r"line 11: .*; and 20 more$"):
        rows(tmp_path, *[f"p,m{number},,,-1" for number in range(30)])
    (tmp_path / "bytes.csv").write_bytes(b"provider,model\n\xff,\xfe\n")
    for path in (tmp_path / "bytes.csv", tmp_path / "none.csv"):
        with pytest.raises(PriceTableError, match="expected a CSV file in UTF-8"):
            read_own_prices(path)


def test_an_import_makes_a_version_that_never_changes(postgres: psycopg.Connection, tmp_path: Path) -> None:
    assert (newest_version(postgres), current_version(postgres)) == (None, package_version())
    first = rows(tmp_path, "openai,gpt-4o,,,2", "house,llama,openai/gpt-4o,,1")
    done = import_prices(postgres, first)
    assert (done.version, done.rows, done.added, done.changed, done.removed) == (1, 2, 2, 0, 0)
    assert current_version(postgres) == f"{package_version()} + own 1"
    assert import_prices(postgres, first).version == 1
    second = import_prices(postgres, rows(tmp_path, "openai,gpt-4o,,,3"))
    assert (second.version, second.rows, second.added, second.changed, second.removed) == (2, 2, 0, 1, 0)
    third = import_prices(postgres, rows(tmp_path, "openai,gpt-4o,,,3"), replaces_all=True)
    assert (third.version, third.rows, third.removed) == (3, 1, 1)
    assert set(own_prices(postgres, 1)) == set(first)
    assert [row.prices["input_mtok"] for row in own_prices(postgres, 2)] == [1, 3]
    assert import_prices(postgres, [], replaces_all=True).rows == 0
    assert own_prices(postgres, newest_version(postgres)) == ()


def test_an_export_can_be_imported_again_and_gives_the_same(postgres: psycopg.Connection, tmp_path: Path) -> None:
    chance = random.Random(11)
    own = [
        OwnPrice(
            f"p{number}",
            chance.choice(["m", "a,b", 'quo"te', "é;*"]) + str(number),
            service_tier=chance.choice(["", "batch"]),
            valid_from=chance.choice([None, AT, AT - timedelta(days=3), datetime(2026, 1, 1, tzinfo=UTC)]),
            valid_until=chance.choice([None, AT + timedelta(microseconds=1)]),
            priced_as=chance.choice([None, "openai/gpt-4o"]),
            factor=chance.choice([None, Decimal("0.85"), Decimal(0)]),
            prices={"input_mtok": Decimal("0.1"), "output_mtok": Decimal(f"{chance.random():.12f}").normalize()},
        )
        for number in range(40)
    ]
    import_prices(postgres, own)
    stored = own_prices(postgres, 1)
    assert set(stored) == set(own)
    file = io.StringIO()
    write_own_prices(stored, file)
    path = tmp_path / "export.csv"
    path.write_text(file.getvalue())
    assert import_prices(postgres, list(read_own_prices(path)), replaces_all=True).version == 1


@pytest.mark.parametrize(
    ("line", "header", "told"),
    [
        (
            "house,m,1",
            "provider,model,cache_read_mtok",
            "house/m: .* Missing ancestor price for cache_read_mtok: input_mtok",
        ),
        ("openai,gpt-4o,1", "provider,model,input_audio_mtok", "openai/gpt-4o: .*cache_audio_read_mtok; state it, too"),
        ("openai,gpt-4o*,1", "provider,model,input_audio_mtok", r"openai/gpt-4o\*: .* can be priced"),
        # Patterns that meet no id of the package, but names that it understands, or that nobody knows.
        (
            "openai,ft:gpt-4o-2024-08-06:acme*,1",
            "provider,model,cache_audio_read_mtok",
            "openai/ft:gpt-4o-2024-08-06:acme can be priced, .*: cache_read_mtok, input_audio_mtok; 1 more",
        ),
        ("bedrock,*nova-pro*,1", "provider,model,input_audio_mtok", "bedrock/amazon.nova-pro-v1:0 can be priced"),
        ("house,llama-*,1", "provider,model,cache_read_mtok", "house/llama- can be priced, .*: input_mtok"),
        ("zz*,*,1", "provider,model,cache_read_mtok", "zzany/any can be priced, .*: input_mtok"),
        # Nothing below has what is forgotten: it would cost nothing.
        (
            "house,m,1",
            "provider,model,input_mtok",
            "input_mtok without output_mtok .0 if it costs nothing.*; state it, too",
        ),
        ("house,m,1", "provider,model,output_mtok", "output_mtok without input_mtok"),
        ("house,m-*,1", "provider,model,input_mtok", "house/m- can be priced, .*input_mtok without output_mtok"),
    ],
)
def test_a_price_without_the_prices_that_it_needs_is_refused(
    postgres: psycopg.Connection, tmp_path: Path, line: str, header: str, told: str
) -> None:
    with pytest.raises(PriceTableError, match=told):
        import_prices(postgres, rows(tmp_path, line, header=header))
    assert newest_version(postgres) is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["openai,gpt-4o,2026-01-01,50,", "openai,gpt-4o,2026-06-01,60,"], ["openai/gpt-4o", "openai/gpt-4o"]),
        (["openai,gpt-4o,,50,", "openai,gpt-4o,2026-06-01,60,"], ["openai/gpt-4o", "openai/gpt-4o"]),
        # The pattern meets this one model.
        (["openai,o1-previe*,,50,", "openai,o1-preview,,50,"], ["openai/o1-previe*", "openai/o1-preview"]),
        # A row that can be priced is not at fault.
        (["openai,gpt-4o,,50,", "openai,gpt-4o,2026-06-01,,0.9"], ["openai/gpt-4o"]),
    ],
)
def test_no_row_hides_what_is_missing_in_another(tmp_path: Path, lines: list[str], told: list[str]) -> None:
    faults = list(coverage_faults(rows(tmp_path, *lines, header="provider,model,valid_from,input_audio_mtok,factor")))
    assert [fault.partition(":")[0] for fault in faults] == told


HOUSE = "provider,model,priced_as,service_tier,valid_from,input_mtok,output_mtok"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # The alias is dropped, or a unit; or a row that holds in its place forgets it.
        ("azure,my-gpt,openai/gpt-4o,,,2,", "azure,my-gpt,,,,2,"),
        ("house,m,,,,2,4", "house,m,,,,1,"),
        ("house,m,,,,2,4", "house,m,,batch,,1,"),
        ("house,m,,,,2,4", "house,m,,,2026-06-01,1,"),
    ],
)
def test_a_row_that_drops_the_price_of_the_output_is_refused(
    postgres: psycopg.Connection, tmp_path: Path, before: str, after: str
) -> None:
    import_prices(postgres, rows(tmp_path, before, header=HOUSE))
    with pytest.raises(PriceTableError, match="input_mtok without output_mtok"):
        import_prices(postgres, rows(tmp_path, after, header=HOUSE))
    # As the reason advises.
    import_prices(postgres, rows(tmp_path, f"{after}0", header=HOUSE))


@pytest.mark.parametrize(
    "name", ["openai,gpt-4o-2024-0*", "openai,openai/gpt-4o-2*", "azure_openai,gpt-4o-2*", "openai,*pt-4o"]
)
def test_a_pattern_is_judged_by_names_that_the_package_understands(tmp_path: Path, name: str) -> None:
    assert list(coverage_faults(rows(tmp_path, f"{name},1", header="provider,model,cache_read_mtok"))) == []


def test_the_advice_about_a_pattern_prices_one_model_and_changes_no_other(
    postgres: psycopg.Connection, tmp_path: Path
) -> None:
    header = "provider,model,input_audio_mtok,cache_audio_read_mtok"
    with pytest.raises(
        PriceTableError, match=r"openai/gpt-4o can be .*; state it in a row of that name beside the pattern"
    ):
        import_prices(postgres, rows(tmp_path, "openai,*pt-4o,50,", header=header))
    import_prices(postgres, rows(tmp_path, "openai,*pt-4o,50,", "openai,gpt-4o,,5", header=header))


def test_lookups_are_stored_by_version_and_tier(postgres: psycopg.Connection, tmp_path: Path) -> None:
    import_prices(postgres, rows(tmp_path, "openai,gpt-4o,,,2"))
    versions = [package_version(), current_version(postgres)]
    for version in versions:
        assert is_looked_up(version)
        add_lookups(postgres, version, [("openai", "gpt-4o", ""), ("openai", "gpt-4o", "batch"), ("p", "m", "")])
        add_lookups(postgres, version, [("openai", "gpt-4o", "")])
    stored = postgres.execute(
        "select price_version, service_tier, input_usd, (other_usd ->> 'cache_read_tokens')::numeric, "
        "explained ->> 'input_mtok' from analytics.model_prices where valid_until = 'infinity' "
        "order by price_version, service_tier"
    ).fetchall()
    assert [row[:4] for row in stored] == [
        (versions[0], "", Decimal("2.5"), Decimal("-0.00000125")),
        (versions[0], "batch", Decimal("1.25"), stored[1][3]),
        (versions[1], "", Decimal(2), Decimal("-0.00000075")),
        (versions[1], "batch", Decimal(1), stored[3][3]),
    ]
    assert '"layer": "own"' in stored[2][4]
    found = postgres.execute("select provider, service_tier, priced_as from analytics.model_lookups order by 1, 2, 3")
    assert set(found) == {("openai", "", "openai/gpt-4o"), ("openai", "batch", "openai/gpt-4o"), ("p", "", None)}


def test_versions_that_nobody_made_cannot_be_used(postgres: psycopg.Connection) -> None:
    assert has_price_version(postgres, package_version())
    for version in ("ours", f"{package_version()} + own 1", "genai-prices 0.0.1", f"{package_version()} + own 0"):
        assert not has_price_version(postgres, version), version
    assert not is_looked_up("genai-prices 0.0.1 + own 1")
