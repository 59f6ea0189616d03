-- Where a request goes: to the workload of the model that its body names, and there to the replica that has the
-- beginning of its prompt cached. docs/routing.md tells why.
--
-- Before this file stand `MODELS`, a table from a model's name to its workload, and `AFFINITY`, true or false.
-- What cannot be read or is not known gets no route here; the directory answers it, as any server would.

local MODEL, AFFINITY_KEY = "x-caravan-model", "x-caravan-affinity"
local MOST_HASHED = 1024 -- bytes of either end of what is hashed, about 250 tokens

local find, sub, byte, lower = string.find, string.sub, string.byte, string.lower

-- A name as the servers compare names: without the parts that can be left out, with a tag, in lower case.
local function canonical(name)
  name = lower((name:gsub("^%s+", ""):gsub("%s+$", "")))
  name = name:gsub(":%s*local$", "")
  name = name:gsub("^[^/]*://", "")
  name = name:gsub("^registry%.ollama%.ai/", ""):gsub("^library/", "")
  if not find(name, ":[^/]*$") then
    name = name .. ":latest"
  end
  return name
end

local workloads = {}
for name, workload in pairs(MODELS) do
  workloads[canonical(name)] = workload
end

-- The index behind the string whose first character is at `i`, or nil. Images are long: only quotes are looked for.
local function past_string(text, i)
  local quote = i - 1
  while true do
    quote = find(text, '"', quote + 1, true)
    if not quote then
      return nil
    end
    local before = quote - 1
    while before >= i and byte(text, before) == 92 do
      before = before - 1
    end
    if (quote - before) % 2 == 1 then
      return quote + 1
    end
  end
end

-- The index behind the value that begins at `i`, or nil.
local function past_value(text, i)
  local first = byte(text, i)
  if first == 34 then
    return past_string(text, i + 1)
  end
  if first ~= 123 and first ~= 91 then
    return find(text, "[,%]}%s]", i) or #text + 1
  end
  local depth = 0
  while true do
    i = find(text, '["%[%]{}]', i)
    if not i then
      return nil
    end
    local char = byte(text, i)
    if char == 34 then
      i = past_string(text, i + 1)
      if not i then
        return nil
      end
    else
      depth = depth + ((char == 123 or char == 91) and 1 or -1)
      i = i + 1
      if depth == 0 then
        return i
      end
    end
  end
end

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8_of(code)
  if code < 0x80 then
    return string.char(code)
  elseif code < 0x800 then
    return string.char(0xC0 + math.floor(code / 0x40), 0x80 + code % 0x40)
  end
  return string.char(0xE0 + math.floor(code / 0x1000), 0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

-- What stands between the quotes of a string, read. Names need no more than the characters of one unit.
local function unescaped(raw)
  if not find(raw, "\\", 1, true) then
    return raw
  end
  raw = raw:gsub("\\(.)(%x?%x?%x?%x?)", function(char, rest)
    if char == "u" and #rest == 4 then
      return utf8_of(tonumber(rest, 16))
    end
    return (ESCAPES[char] or char) .. rest
  end)
  return raw
end

local function next_char(text, i)
  return find(text, "[^ \t\r\n]", i) or #text + 1
end

-- The members of the object at the start of `text`: from a key in lower case to where its last value is. Nil where
-- it is no object or ends before its brace. As in Go, a key may be written in any case: the one that is written
-- exactly counts before others, else the last.
local function members(text)
  local i = next_char(text, 1)
  if byte(text, i) ~= 123 then
    return nil
  end
  local found, exact = {}, {}
  i = next_char(text, i + 1)
  if byte(text, i) == 125 then
    return found
  end
  while true do
    if byte(text, i) ~= 34 then
      return nil
    end
    local behind = past_string(text, i + 1)
    if not behind then
      return nil
    end
    local written = unescaped(sub(text, i + 1, behind - 2))
    local key = lower(written)
    i = next_char(text, behind)
    if byte(text, i) ~= 58 then
      return nil
    end
    i = next_char(text, i + 1)
    local past = past_value(text, i)
    if not past then
      return nil
    end
    if written == key and not exact[key] then
      exact[key], found[key] = true, nil
    end
    -- null leaves what an earlier key has set.
    if (written == key or not exact[key]) and sub(text, i, past - 1) ~= "null" then
      found[key] = { i, past - 1 }
    end
    i = next_char(text, past)
    local char = byte(text, i)
    if char == 125 then
      return found
    elseif char ~= 44 then
      return nil
    end
    i = next_char(text, i + 1)
  end
end

-- The string at a place that `members` found, or nil.
local function string_at(text, place)
  if not place or byte(text, place[1]) ~= 34 then
    return nil
  end
  return unescaped(sub(text, place[1] + 1, place[2] - 1))
end

-- Where the messages end that all turns of a conversation begin with: those of the system and one more. Or nil.
local function past_opening(text, place)
  if byte(text, place[1]) ~= 91 then
    return nil
  end
  local i = next_char(text, place[1] + 1)
  while i <= place[2] and byte(text, i) == 123 do
    local past = past_value(text, i)
    if not past then
      return nil
    end
    local message = sub(text, i, past - 1)
    local role = string_at(message, (members(message) or {}).role)
    i = next_char(text, past)
    if (role ~= "system" and role ~= "developer") or byte(text, i) ~= 44 then
      return past
    end
    i = next_char(text, i + 1)
  end
  return nil
end

-- What stands for a text: its two ends and its length, so that long ones cost no more than short ones.
local function digest(text, first, last)
  if last - first < 2 * MOST_HASHED then
    return sub(text, first, last)
  end
  return sub(text, first, first + MOST_HASHED - 1) .. (last - first) .. sub(text, last - MOST_HASHED + 1, last)
end

local function whole(text, place)
  return place and digest(text, place[1], place[2]) or ""
end

-- What requests have in common whose prompts begin alike; empty where nothing is cached (embeddings).
local function beginning(text, found)
  local fixed = whole(text, found.system) .. whole(text, found.tools)
  if found.messages then
    local past = past_opening(text, found.messages)
    return past and fixed .. digest(text, found.messages[1], past - 1) or ""
  end
  -- A prompt that grows, and a context with each turn, keep their first part only.
  local grows = found.context or found.prompt
  return grows and fixed .. sub(text, grows[1], math.min(grows[2], grows[1] + MOST_HASHED - 1)) or ""
end

-- FNV-1a of 32 bits.
local function hashed(text)
  local hash = 2166136261
  for i = 1, #text do
    hash = bit.bxor(hash, byte(text, i))
    -- times 16777619, in parts that stay exact
    hash = (bit.tobit(hash * 403) + bit.lshift(hash, 24)) % 4294967296
  end
  return string.format("%08x", hash)
end

-- The workload for a body and what to hash, or nil.
function route(text)
  local found = members(text)
  if not found then
    return nil
  end
  local name = string_at(text, found.model)
  if not name or name == "" then
    name = string_at(text, found.name)
  end
  local workload = name and workloads[canonical(name)]
  if not workload then
    return nil
  end
  local common = AFFINITY and beginning(text, found) or ""
  return workload, common ~= "" and hashed(workload .. "\n" .. common) or nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove(MODEL)
  headers:remove(AFFINITY_KEY)
  local method = headers:get(":method")
  if method == "GET" or method == "HEAD" or method == "OPTIONS" then
    return
  end
  local body = handle:body()
  if not body or body:length() == 0 then
    return
  end
  local workload, hash = route(body:getBytes(0, body:length()))
  if workload then
    headers = handle:headers() -- the one from before the body came is no longer good
    headers:add(MODEL, workload)
    if hash then
      headers:add(AFFINITY_KEY, hash)
    end
  end
end
