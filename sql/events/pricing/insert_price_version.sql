-- Notes a price version. One that is known stays as it is; the caller compares what it holds.
insert into analytics.price_versions (price_version, source, checksum)
values (%(price_version)s, %(source)s, %(checksum)s)
on conflict (price_version) do nothing;
