-- Dead letters of keys that now read as counters are settled: the aggregation that reads them is their replay. Discarded ones, too:
-- their keys count now.
update ops.merchant_letters
set replayed_at = clock_timestamp()
where family = 'merchant'
  and batch_id is null
  and replayed_at is null
  and md5(source_key) in (
      select md5(convert_to('usage:' || merchant_id || ':' || date::text || ':' || metric_type, 'UTF8'))
      from staged_merchant
  );
