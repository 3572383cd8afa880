-- Removes notes that were seen before their windows were made; those that came meanwhile stay.
delete from ops.touched_windows as touched
using unnest(%(places)s::text[], %(times)s::timestamptz[]) as note (place, touched_at)
where touched.ctid = note.place::tid
  and touched.touched_at = note.touched_at;
