-- Prices of one's own. A version is the whole set of rows and never changes: days that are pinned to it keep their costs.

create table analytics.own_price_versions (
    own_version integer primary key check (own_version > 0),
    rows integer not null check (rows >= 0),
    imported_at timestamptz not null default clock_timestamp()
);
comment on table analytics.own_price_versions is 'Versions of prices of one''s own; each import that changes something makes a new one, and new days use the newest';
comment on column analytics.own_price_versions.own_version is 'Number, from 1';
comment on column analytics.own_price_versions.rows is 'Rows that it has in analytics.own_prices; 0: all were taken away';
comment on column analytics.own_price_versions.imported_at is 'When it was made';

create table analytics.own_prices (
    own_version integer not null references analytics.own_price_versions,
    provider text not null,
    model text not null,
    service_tier text not null default '',
    valid_from timestamptz not null default '-infinity',
    valid_until timestamptz not null default 'infinity' check (valid_until > valid_from),
    priced_as text,
    factor numeric check (factor >= 0),
    prices jsonb not null default '{}',
    primary key (own_version, provider, model, service_tier, valid_from)
);
comment on table analytics.own_prices is 'Rows of prices of one''s own, in each version all of them; usage-pipeline prices import writes them';
comment on column analytics.own_prices.own_version is 'Version that it belongs to';
comment on column analytics.own_prices.provider is 'Provider as events name it, in lower case; * stands for any characters';
comment on column analytics.own_prices.model is 'Model as events name it, in lower case; * stands for any characters';
comment on column analytics.own_prices.service_tier is 'Tier of the service that it holds for, in lower case; empty: all';
comment on column analytics.own_prices.valid_from is 'First moment at which it holds';
comment on column analytics.own_prices.valid_until is 'Moment at which it holds no more';
comment on column analytics.own_prices.priced_as is 'provider/model of the price package whose prices are taken; null: those of the model itself';
comment on column analytics.own_prices.factor is 'What prices of the layers below are multiplied with: 0.8 is a fifth less; null: nothing';
comment on column analytics.own_prices.prices is 'US dollars by the price keys of the package, such as input_mtok; only what is stated here differs from the layers below';

alter table analytics.price_versions
    add column own_version integer references analytics.own_price_versions;
comment on column analytics.price_versions.price_version is 'Version: the package of prices with its version, and the version of own prices if there are any; or the name of a table that was given to earlier releases';
comment on column analytics.price_versions.source is 'genai-prices: looked up in that package and in own prices when a model is first met; csv: given as a whole to usage-pipeline recost of an earlier release';
comment on column analytics.price_versions.own_version is 'Version of own prices that stand above the package; null: none';
comment on table analytics.model_lookups is 'What the models of events were found as in the package of prices and in own prices; looked up once a version';
comment on column analytics.model_lookups.priced_as is 'provider/model of the package whose prices were taken, or "own" where all of them are one''s own; null: no price is known';
