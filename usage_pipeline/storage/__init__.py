"""PostgreSQL and Redis: connections, migrations, the reader of `sql/`, what the catalog says. No rule of the domain.

Partitions are in `chunks/`, what happens to them as they age in `lifecycle/`, the files they leave in `archives/`.
"""
