-- Whether there is any dead letter that an aggregation could settle.
select exists (
    select
    from ops.merchant_letters
    where family = 'merchant'
      and batch_id is null
      and replayed_at is null
) as has_open;
