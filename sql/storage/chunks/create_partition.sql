-- A partition of a partitioned table; the names are quoted identifiers that partitions.py fills in.
-- Created apart and then attached: ATTACH lets readers and writers of the others go on, CREATE ... PARTITION OF does not.
create table if not exists {partition} (
    like {parent} including defaults including constraints including comments
);
