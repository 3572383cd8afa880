-- Takes out staged rows that would push a total over bigint; runs only after an upsert has failed on it.
delete from staged_api_key as s
using usage.api_keys as t
where t.api_key_id = s.api_key_id
  and greatest(
      t.total_requests::numeric + s.total_requests,
      t.successful_requests::numeric + s.successful_requests,
      t.failed_requests::numeric + s.failed_requests,
      t.total_file_size::numeric + s.total_file_size,
      t.total_files_uploaded::numeric + s.total_files_uploaded
  ) > 9223372036854775807
returning 'apikey:' || s.api_key_id || ':metrics';
