-- Takes out staged rows that would push a total over bigint; runs only after an upsert has failed on it.
delete from staged_provider as s
using usage.provider_usage as t
where t.api_key_id = s.api_key_id
  and t.provider = s.provider
  and greatest(
      t.upload_count::numeric + s.upload_count,
      t.total_file_size::numeric + s.total_file_size
  ) > 9223372036854775807
returning 'provider:' || s.api_key_id || ':' || s.provider || ':metrics';
