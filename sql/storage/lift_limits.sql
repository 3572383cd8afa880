-- Takes the limits of time from this session that the role or the database may have set for what is short. (One is of version 17.)
select set_config(name, '0', false)
from pg_settings
where name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout');
