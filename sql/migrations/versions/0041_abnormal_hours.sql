-- A leak that goes on would be as usual once it was in its own history.
alter table ops.usage_hours add column is_abnormal boolean not null default false;
comment on column ops.usage_hours.is_abnormal is 'It was judged to be far above the usual: it is no part of the history of later hours';
