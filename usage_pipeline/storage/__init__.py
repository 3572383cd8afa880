"""PostgreSQL and Redis: connections, migrations, the reader of `sql/`, the catalog. No rules about usage are here.

`connecting/` has how connections begin. `chunks/` makes partitions, `lifecycle/` compresses, archives and drops old ones,
`archives/` has their files.
"""
