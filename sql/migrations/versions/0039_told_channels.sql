-- Who was told of an alert is told that it is over; who was not, since the channel is new, is told of what is still open.
alter table ops.alerts add column told text[];
comment on column ops.alerts.told is 'Channels that have got the alert itself; null: not known, so all of them';
