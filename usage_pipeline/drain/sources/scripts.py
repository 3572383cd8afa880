"""The scripts that run inside Redis for node.py."""

# Renames pairs of keys. It answers one letter for each pair: "1" if it renamed, and "0" if the key is gone (another drainer
# took it, or it expired) or the claim exists already. RENAMENX never overwrites a claim. PERSIST is needed because a rename
# keeps the TTL. It is a script because Redis reads 16 KB at a time, and `appendfsync always` syncs after each read: single
# commands cost a sync per 30 keys. It does not read the keys: that would block Redis for 10 µs a key instead of 4.
#
# It also answers how many bytes the renamed keys have in Redis, or -1 if Redis does not tell. It stops once they have more
# than ARGV[1], because a large key takes long to measure. SAMPLES 0 is exact: by a sample, one large field among a hundred
# thousand small ones would not be seen. It measures after all renames: before Redis 7, some scripts may not write after that.
RENAME = b"""\
local renamed, bytes, most = {}, 0, tonumber(ARGV[1])
for i = 1, #KEYS, 2 do
  local reply = redis.pcall('RENAMENX', KEYS[i], KEYS[i + 1])
  if reply == 1 then
    redis.call('PERSIST', KEYS[i + 1])
  elseif type(reply) == 'table' and not string.find(reply.err, 'no such key', 1, true) then
    return reply
  end
  renamed[#renamed + 1] = reply == 1 and '1' or '0'
end
for pair = 1, #renamed do
  if bytes > most then
    break
  end
  if renamed[pair] == '1' then
    local size = redis.pcall('MEMORY', 'USAGE', KEYS[2 * pair], 'SAMPLES', '0')
    if type(size) ~= 'number' then
      bytes = -1
      break
    end
    bytes = bytes + size
  end
end
return {table.concat(renamed), bytes}
"""
NOT_RENAMED = b"0"

# The lengths of items of a list. It reads few at first, and after large ones: Redis holds in its memory what a script reads.
ITEM_SIZES = b"""\
local sizes, first, last, step = {}, tonumber(ARGV[1]), tonumber(ARGV[2]), 1
while first <= last do
  local items, bytes = redis.call('LRANGE', KEYS[1], first, math.min(first + step - 1, last)), 0
  if #items == 0 then
    break
  end
  for _, item in ipairs(items) do
    sizes[#sizes + 1] = #item
    bytes = bytes + #item
  end
  first = first + #items
  step = math.max(1, math.min(2 * step, 500, math.floor(#items * 4194304 / (bytes + 1))))
end
return sizes
"""
# The first bytes of an item of a list.
BEGINNING = b"""\
return string.sub(redis.call('LINDEX', KEYS[1], ARGV[1]) or '', 1, tonumber(ARGV[2]))
"""
