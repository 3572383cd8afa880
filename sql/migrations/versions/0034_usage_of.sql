-- Usage as a roll-up has it, under the names of the other views: by week, month, API key and tag.
create view {view} as
select
    {keys},
    requests,
    errors,
    input_tokens,
    output_tokens,
    total_tokens,
    {distinct}
    cost_usd,
    unpriced_requests,
    list_cost_usd,
    reported_cost_usd,
    reported_requests,
    unlisted_requests,
    cache_read_tokens,
    cache_write_tokens,
    output_reasoning_tokens,
    input_audio_tokens,
    output_audio_tokens,
    input_image_tokens,
    output_image_tokens,
    unattributed_tokens,
    other_units
from {source};
comment on column {view}.requests is 'Requests, all outcomes';
comment on column {view}.errors is 'Requests that count as errors: a kind of error is named, or the status is 400 or more';
comment on column {view}.total_tokens is 'All tokens';
comment on column {view}.team is 'Team that it is charged to';
comment on column {view}.provider is 'Provider of the model';
comment on column {view}.model is 'Model, as the client named it';
