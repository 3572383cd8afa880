"""The Lua script that adds to the JSON counter of a token (contracts §1.3) in one step.

If a drain renames the key at the same time, it takes the old value or the new one, never a value between reading and writing.
The script is short because it is sent with every record.
"""

LARGEST_TOKEN_COUNT = 2**53 - 1
"""Lua numbers are doubles. Above this number, different integers may become the same."""

# cjson keeps 14 digits and would write a large count as 1e+15. So the script formats the number itself; cjson writes the texts.
# A stored value may not be the JSON of a token, or may be of another token whose id and instance give the same key. Then the
# script leaves it as it is, for the drain. Other writers may store a `lastUsedAt` with an offset, so the script compares times,
# not texts.
ADD_TOKEN_USAGE = f"""
local count, at = tonumber(ARGV[1]), ARGV[3]
local present = redis.call('GET', KEYS[1])
if present then
  local is_json, value = pcall(cjson.decode, present)
  if not is_json or type(value) ~= 'table' then return redis.error_reply('ERR token usage is not a JSON object') end
  local had = value.usageCount
  if type(had) ~= 'number' or had < 0 or had % 1 ~= 0 then
    return redis.error_reply('ERR usageCount is not a count') end
  if type(value.instanceId) == 'string' and value.instanceId ~= ARGV[4] then
    return redis.error_reply('ERR token usage of another instance') end
  count = count + had
  if count > {LARGEST_TOKEN_COUNT} then return redis.error_reply('ERR usageCount is no longer exact') end
  if type(value.lastUsedAt) == 'string' then
    local y, m, d, h, mi, s, rest =
      value.lastUsedAt:match('^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$')
    if y then
      y, m = tonumber(y), tonumber(m)
      if m < 3 then y, m = y - 1, m + 12 end
      local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
        + math.floor((153 * (m - 3) + 2) / 5) + tonumber(d) - 719469
      local fraction, zone = rest:match('^(%.?%d*)(.*)$')
      local sign, zh, zm = zone:match('^([+-])(%d%d):?(%d%d)$')
      local offset = sign and (tonumber(zh) * 60 + tonumber(zm)) * (sign == '-' and -1 or 1) or 0
      local ms = ((days * 24 + tonumber(h)) * 60 + tonumber(mi) - offset) * 60000
        + tonumber(s) * 1000 + math.floor((tonumber('0' .. fraction) or 0) * 1000 + 1e-6)
      if ms > tonumber(ARGV[2]) then at = value.lastUsedAt end
    end
  end
end
redis.call('SET', KEYS[1], '{{"usageCount":' .. string.format('%.0f', count) .. ',"lastUsedAt":' .. cjson.encode(at)
  .. ',"instanceId":' .. cjson.encode(ARGV[4]) .. '}}', 'EX', ARGV[5])
return 1
"""
