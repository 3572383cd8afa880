// API keys, tokens and merchants: what their counters say, drained from Redis.

import { Listing } from "./listing";

export const ApiKeys = () => (
  <Listing
    path="api/usage/api-keys"
    title="API keys"
    note="All that was counted, by key."
    columns={[
      { member: "apiKeyId", title: "API key" },
      { member: "totalRequests", title: "Requests", kind: "count" },
      { member: "successfulRequests", title: "Succeeded", kind: "count" },
      { member: "failedRequests", title: "Failed", kind: "count" },
      { member: "totalFilesUploaded", title: "Files", kind: "count" },
      { member: "totalFileSize", title: "Bytes", kind: "bytes" },
      { member: "lastUsedAt", title: "Last used", kind: "moment" },
    ]}
    empty="No API key was counted yet. Count one, and drain it:"
    command={'redis-cli -u "$REDIS_URL" hincrby apikey:key-1:metrics total_requests 1\nusage-pipeline drain'}
  />
);

export const Tokens = () => (
  <Listing
    path="api/usage/tokens"
    title="Tokens"
    note="Uses of access tokens, also of this service's own."
    columns={[
      { member: "name", title: "Name" },
      { member: "tokenId", title: "Token" },
      { member: "usageCount", title: "Uses", kind: "count" },
      { member: "quota", title: "Quota a day", kind: "count" },
      { member: "lastUsedAt", title: "Last used", kind: "moment" },
      { member: "expiresAt", title: "Expires", kind: "moment" },
      { member: "revokedAt", title: "Revoked", kind: "moment" },
    ]}
    empty="There is no token yet. Make one:"
    command="usage-pipeline tokens create me --scope read --expires 30d"
  />
);

export const Merchants = () => (
  <Listing
    path="api/usage/merchants"
    title="Merchants"
    note="Counters of merchants, by metric."
    columns={[
      { member: "merchantId", title: "Merchant" },
      { member: "metricType", title: "Metric" },
      { member: "metricValue", title: "Count", kind: "count" },
      { member: "firstDate", title: "First day" },
      { member: "lastDate", title: "Last day" },
    ]}
    empty="No merchant was counted yet. Aggregate what is in Redis:"
    command="usage-pipeline aggregate"
  />
);
