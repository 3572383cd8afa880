-- Issues and comments of the applications, their daily statistics, the rankings, and posts of the external API.

create table app.issues (
    id text primary key check (length(id) between 1 and 200),
    title text not null,
    status text not null check (status in ('OPEN', 'IN_PROGRESS', 'RESOLVED', 'CLOSED')),
    reporter text,
    assignee text,
    view_count bigint not null default 0 check (view_count >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    resolved_at timestamptz,
    check ((resolved_at is not null) = (status in ('RESOLVED', 'CLOSED')))
);
create index on app.issues (created_at);
create index on app.issues (resolved_at) where resolved_at is not null;
comment on table app.issues is 'Issues of the applications; written by them or by `usage-pipeline load issues`';
comment on column app.issues.id is 'Issue';
comment on column app.issues.title is 'What it is about';
comment on column app.issues.status is 'OPEN, IN_PROGRESS, RESOLVED or CLOSED';
comment on column app.issues.reporter is 'Who reported it, if known';
comment on column app.issues.assignee is 'Who works on it, if somebody does';
comment on column app.issues.view_count is 'Views so far; they have no history';
comment on column app.issues.created_at is 'When it was reported';
comment on column app.issues.updated_at is 'When it last changed, by the word of the application';
comment on column app.issues.resolved_at is 'When its status entered RESOLVED or CLOSED, kept by a trigger; null while it is open or open again';

create function app.keep_resolved_at() returns trigger
language plpgsql
as $$
declare
    is_done constant boolean := new.status in ('RESOLVED', 'CLOSED');
    was_done boolean := false;
begin
    if tg_op = 'UPDATE' then
        was_done := old.status in ('RESOLVED', 'CLOSED');
    end if;
    if not is_done then
        new.resolved_at := null;
    elsif was_done then
        -- A correction of the time is taken, a loss of it is not: RESOLVED that becomes CLOSED keeps its first time.
        new.resolved_at := coalesce(new.resolved_at, old.resolved_at);
    else
        -- Who knows the time (a loader) gives it; for everyone else it is now.
        new.resolved_at := coalesce(new.resolved_at, now());
    end if;
    return new;
end
$$;
comment on function app.keep_resolved_at is 'Sets resolved_at when the status enters RESOLVED or CLOSED, and clears it when it leaves';
create trigger keep_resolved_at
before insert or update on app.issues
for each row
execute function app.keep_resolved_at();

create table app.comments (
    id text primary key check (length(id) between 1 and 200),
    issue_id text not null references app.issues (id) on delete cascade,
    author text,
    created_at timestamptz not null default now()
);
create index on app.comments (created_at);
create index on app.comments (issue_id, created_at);
comment on table app.comments is 'Comments on issues';
comment on column app.comments.id is 'Comment';
comment on column app.comments.issue_id is 'Issue that it is about';
comment on column app.comments.author is 'Who wrote it, if known';
comment on column app.comments.created_at is 'When it was written';

create table app.external_posts (
    id text primary key check (length(id) between 1 and 200),
    user_id text check (length(user_id) between 1 and 200),
    title text not null,
    body text not null,
    fetched_at timestamptz not null,
    is_fallback boolean not null
);
comment on table app.external_posts is 'Posts of the external API, as last fetched';
comment on column app.external_posts.id is 'Post, numbered by the external API';
comment on column app.external_posts.user_id is 'Its author there; null in a fallback';
comment on column app.external_posts.title is 'Title';
comment on column app.external_posts.body is 'Text';
comment on column app.external_posts.fetched_at is 'When it was fetched, or last tried';
comment on column app.external_posts.is_fallback is 'Whether the external API never gave it so far; a later success replaces it';

create table stats.daily_issue_stats (
    date date primary key,
    id bigint generated always as identity unique,
    created_count bigint not null check (created_count >= 0),
    resolved_count bigint not null check (resolved_count >= 0),
    comment_count bigint not null check (comment_count >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table stats.daily_issue_stats is 'Issues created and resolved, and comments written, per day';
comment on column stats.daily_issue_stats.date is 'Day in USAGE_TIMEZONE';
comment on column stats.daily_issue_stats.id is 'Number of the row, for clients that want one; it never changes';
comment on column stats.daily_issue_stats.created_count is 'Issues created on that day';
comment on column stats.daily_issue_stats.resolved_count is 'Issues whose status entered RESOLVED or CLOSED on that day, and are so still';
comment on column stats.daily_issue_stats.comment_count is 'Comments written on that day';
comment on column stats.daily_issue_stats.created_at is 'When the day was first counted';
comment on column stats.daily_issue_stats.updated_at is 'When a count last changed';

-- Rankings: one table each, the same first columns, then the parts of the score. An id is there once a date; this is looked at
-- after a whole statement, in which two of them may change places.

create table stats.popular_issues (
    ranking_date date not null,
    rank smallint not null check (rank between 1 and 10),
    id text not null,
    title text not null,
    score bigint not null,
    view_count bigint not null,
    comment_count bigint not null,
    created_at timestamptz not null,
    primary key (ranking_date, rank),
    unique (ranking_date, id) deferrable
);
comment on table stats.popular_issues is 'The ten most popular of the issues created in the seven days up to a date';
comment on column stats.popular_issues.ranking_date is 'Last of the seven days, in USAGE_TIMEZONE';
comment on column stats.popular_issues.rank is '1 to 10; equal scores: the newer first, then the smaller id';
comment on column stats.popular_issues.id is 'Issue';
comment on column stats.popular_issues.title is 'What it is about';
comment on column stats.popular_issues.score is 'view_count + comment_count';
comment on column stats.popular_issues.view_count is 'Views when the ranking was made: they have no history';
comment on column stats.popular_issues.comment_count is 'Comments written by the end of the ranking date';
comment on column stats.popular_issues.created_at is 'When the issue was reported';

create table stats.popular_models (
    ranking_date date not null,
    rank smallint not null check (rank between 1 and 10),
    id text not null,
    title text not null,
    score bigint not null,
    requests bigint not null,
    total_tokens bigint not null,
    primary key (ranking_date, rank),
    unique (ranking_date, id) deferrable
);
comment on table stats.popular_models is 'The ten models with the most requests in the seven days up to a date';
comment on column stats.popular_models.ranking_date is 'Last of the seven days, in USAGE_TIMEZONE';
comment on column stats.popular_models.rank is '1 to 10; equal scores: the smaller id first';
comment on column stats.popular_models.id is 'provider/model; a slash in the provider is encoded as in a URL';
comment on column stats.popular_models.title is 'Model, as the clients name it';
comment on column stats.popular_models.score is 'requests';
comment on column stats.popular_models.requests is 'Requests, all outcomes';
comment on column stats.popular_models.total_tokens is 'All tokens';

create table stats.popular_models_by_tokens (like stats.popular_models including all);
comment on table stats.popular_models_by_tokens is 'The ten models with the most tokens in the seven days up to a date';
comment on column stats.popular_models_by_tokens.score is 'total_tokens';

create table stats.popular_services (like stats.popular_models including all);
comment on table stats.popular_services is 'The ten services with the most requests in the seven days up to a date';
comment on column stats.popular_services.id is 'Service that called the models';
comment on column stats.popular_services.title is 'The same';

create table stats.popular_services_by_tokens (like stats.popular_services including all);
comment on table stats.popular_services_by_tokens is 'The ten services with the most tokens in the seven days up to a date';
comment on column stats.popular_services_by_tokens.score is 'total_tokens';

create table stats.popular_api_keys (
    ranking_date date not null,
    rank smallint not null check (rank between 1 and 10),
    id text not null,
    title text not null,
    score bigint not null,
    total_requests bigint not null,
    failed_requests bigint not null,
    total_file_size bigint not null,
    primary key (ranking_date, rank),
    unique (ranking_date, id) deferrable
);
comment on table stats.popular_api_keys is 'The ten API keys with the most requests in the seven days up to a date';
comment on column stats.popular_api_keys.ranking_date is 'Last of the seven days, in USAGE_TIMEZONE';
comment on column stats.popular_api_keys.rank is '1 to 10; equal scores: the smaller id first';
comment on column stats.popular_api_keys.id is 'API key';
comment on column stats.popular_api_keys.title is 'The same: keys have no names';
comment on column stats.popular_api_keys.score is 'total_requests';
comment on column stats.popular_api_keys.total_requests is 'Requests, all outcomes';
comment on column stats.popular_api_keys.failed_requests is 'Requests that failed';
comment on column stats.popular_api_keys.total_file_size is 'Uploaded bytes';
