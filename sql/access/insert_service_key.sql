-- Keeps a new key, unless another process was faster.
insert into ops.service_keys (name, key)
values (%(name)s, %(key)s)
on conflict (name) do nothing;
