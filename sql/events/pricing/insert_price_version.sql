-- Notes a price version. One that is known stays as it is: what it means never changes.
insert into analytics.price_versions (price_version, source, own_version)
values (%(price_version)s, %(source)s, %(own_version)s)
on conflict (price_version) do nothing;
