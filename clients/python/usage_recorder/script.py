"""The Lua script that writes a record in one step, and once, however often it is sent. docs/write-counters.md explains it.

KEYS[1] is the hash of the recorder's numbers, the others are the keys of the commands. ARGV is a lane, the number of the
send, and the commands, each as the count of its words, its name, the place of its key in KEYS, and its other arguments.
Answers 1 if the number was seen before and nothing was refused, otherwise a list of (place of the command, its error), which
is empty if all went well. A number may have a fraction, by which its send is known. Then the answer is OF_ANOTHER if the same
number is done with another fraction, and PASSED if a later number of the lane is: nothing of this send is done then, unless a
later one of the same writer passed it.
"""

from __future__ import annotations

from hashlib import sha1

LARGEST_TOKEN_COUNT = 2**53 - 1
"""Lua numbers are doubles. Above this number, different integers may become the same."""

NUMBERS_TTL_SECONDS = 7 * 86_400
"""How long Redis remembers the last numbers of a recorder after its last record."""

OF_ANOTHER = 2
PASSED = 3

# A stored `last_used_at` is kept if it is later by less than this: a record may be sent again days later. One that is further
# ahead is wrong, and would make the drain refuse the key.
_LATER_MS = 8 * 86_400_000

# The number is noted first. If Redis refuses that (no memory, a replica), nothing is written yet, and the send can be repeated;
# once a script has written, Redis lets it finish.
#
# What was refused is noted after the number that it belongs to: a repetition has the same answer. The next number of the lane
# makes it void. It is a field of its own, so that older recorders still read the number.
#
# Two processes have the same lanes and numbers if one is a copy of the other, such as a restored snapshot of its machine. Then
# the fraction tells their sends apart. Older recorders compare the whole as one number, which says the same to them.
#
# TOKEN adds to the JSON counter of a token (contracts §1.3). cjson keeps 14 digits and would write a large count as 1e+15. So
# the script formats the number itself; cjson writes the texts. A stored value may not be the JSON of a token, or may be of
# another token whose id and instance give the same key. Then the script leaves it as it is, for the drain. Other writers may
# store a `lastUsedAt` with an offset, so the script compares times, not texts.
#
# ODOMETER counts what the commands before it wrote, and leaves out those that failed. A new odometer gets a name: the hash of
# this send, since no other has its number.
RECORD = f"""\
local function is_error(reply) return type(reply) == 'table' and reply.err end
local function whole(number) return tonumber(number:match('^%d+')) end

local last, refused_field = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[1] .. ' refused'
if last and whole(last) >= whole(ARGV[2]) then
  if last ~= ARGV[2] and ARGV[2]:find('.', 1, true) then
    return whole(last) == whole(ARGV[2]) and {OF_ANOTHER} or {PASSED}
  end
  local number, refused = (redis.call('HGET', KEYS[1], refused_field) or ''):match('^(%S+)(.*)$')
  if number ~= ARGV[2] then return 1 end
  local again = {{}}
  for place, kind in refused:gmatch(' (%d+) (%S+)') do
    again[#again + 1] = tonumber(place)
    again[#again + 1] = kind
  end
  return again
end
local noted = redis.pcall('HSET', KEYS[1], ARGV[1], ARGV[2])
if is_error(noted) then return redis.error_reply(noted.err) end
redis.call('EXPIRE', KEYS[1], {NUMBERS_TTL_SECONDS})

local failed, errors = {{}}, {{}}
local own = {{}}

function own.LATER(key, at)
  local field, ms = ARGV[at], ARGV[at + 1]
  local present = redis.pcall('HGET', key, field)
  if is_error(present) then return present end
  if present and #present < 16 and present:match('^%d+$') then
    local ahead = tonumber(present) - tonumber(ms)
    if ahead > 0 and ahead < {_LATER_MS} then return 0 end
  end
  return redis.pcall('HSET', key, field, ms)
end

function own.TOKEN(key, at)
  local count, ms, latest, instance = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local present = redis.pcall('GET', key)
  if is_error(present) then return present end
  if present then
    local is_json, value = pcall(cjson.decode, present)
    if not is_json or type(value) ~= 'table' then return {{err = 'ERR token usage is not a JSON object'}} end
    local had = value.usageCount
    if type(had) ~= 'number' or had < 0 or had % 1 ~= 0 then return {{err = 'ERR usageCount is not a count'}} end
    if type(value.instanceId) == 'string' and value.instanceId ~= instance then
      return {{err = 'ERR token usage of another instance'}} end
    count = count + had
    if count > {LARGEST_TOKEN_COUNT} then return {{err = 'ERR usageCount is no longer exact'}} end
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
        local had_ms = ((days * 24 + tonumber(h)) * 60 + tonumber(mi) - offset) * 60000
          + tonumber(s) * 1000 + math.floor((tonumber('0' .. fraction) or 0) * 1000 + 1e-6)
        if had_ms > ms then latest = value.lastUsedAt end
      end
    end
  end
  return redis.pcall('SET', key, '{{"usageCount":' .. string.format('%.0f', count) .. ',"lastUsedAt":'
    .. cjson.encode(latest) .. ',"instanceId":' .. cjson.encode(instance) .. '}}', 'EX', ARGV[at + 4])
end

function own.ODOMETER(key, at, last_word)
  local has_counted, problem = false, nil
  local function run(...)
    local reply = redis.pcall(...)
    if is_error(reply) then problem = reply end
    return reply
  end
  for triple = at + 2, last_word, 3 do
    if not failed[tonumber(ARGV[triple])] then
      has_counted = true
      if ARGV[triple + 2] ~= '0' then run('HINCRBY', key, ARGV[triple + 1], ARGV[triple + 2]) end
    end
  end
  if not has_counted then return 0 end
  if run('HINCRBY', key, 'records', ARGV[at + 1]) == tonumber(ARGV[at + 1]) then
    run('HSETNX', key, 'life', '0-' .. redis.sha1hex(KEYS[1] .. ' ' .. ARGV[1] .. ' ' .. ARGV[2]):sub(1, 12))
  end
  run('EXPIRE', key, ARGV[at])
  return problem or 0
end

local at, place = 3, 0
while at <= #ARGV do
  place = place + 1
  local last_word = at + tonumber(ARGV[at])
  local name, key = ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])]
  local reply
  if own[name] then
    reply = own[name](key, at + 3, last_word)
  else
    reply = redis.pcall(name, key, unpack(ARGV, at + 3, last_word))
  end
  if is_error(reply) then
    failed[place] = true
    errors[#errors + 1] = place
    errors[#errors + 1] = reply.err
  end
  at = last_word + 1
end
if #errors > 0 then
  local refused = ARGV[2]
  for i = 1, #errors, 2 do refused = refused .. ' ' .. errors[i] .. ' ' .. (errors[i + 1]:match('%S+') or 'ERR') end
  redis.pcall('HSET', KEYS[1], refused_field, refused)
end
return errors
"""
RECORD_SHA = sha1(RECORD.encode(), usedforsecurity=False).hexdigest()
