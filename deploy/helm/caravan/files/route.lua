-- Where a request goes: to the workload of the model that its body or its path names, and there to the replica that
-- has the beginning of its prompt cached. docs/routing.md tells why.
--
-- Before this file stand `MODELS`, a table from a model's name to its workload, `AFFINITY`, true or false, and
-- `KEYED`, whether the servers want keys. Where there are pools there is `POOLS`, a list of them: `slug`, `names` (patterns
-- in lower case; nil takes all names) and `pods`, over how many of them a model is spread.
-- A name that no workload of its own has goes to the first pool that takes it. What cannot be read, or nobody takes,
-- gets no route here; the directory answers it, as any server would.
--
-- Clients choose how long everything is, and all streams of a thread stand while this runs. So a body is read in parts,
-- once, and patterns with repetitions see texts of a bounded length only.

local MODEL, AFFINITY_KEY = "x-caravan-model", "x-caravan-affinity"
local MOST_HASHED = 1024 -- bytes of either end of what is hashed, about 250 tokens
local MOST_NAME = 1024 -- bytes of a name; the longest that there can be has some 600
local MOST_ESCAPED = 6 -- bytes of a character written as \u0000
local MOST_KEY = 16 * MOST_ESCAPED -- bytes of a key as it is written
local MOST_MEMBERS = 10000
local MOST_PIECES = 64 -- of what is hashed, so many texts and pictures; of more only how many they are
local PART = 131072 -- bytes of a body that are copied at once
-- Quotes, brackets and objects of a body that are looked at, some of them three times: what is within the limits of the
-- servers (docs/limits.md: values, containers, characters) has less. More would keep the thread for seconds.
local MOST_STEPS = 10485760

local find, sub, byte, lower = string.find, string.sub, string.byte, string.lower

-- The beginning of a Claude Code session: a line that differs in every request, and that servers leave out too
-- (app/api/anthropic/system.py).
local BILLING = "x-anthropic-billing-header:"

local function set(...)
  local made = {}
  for _, key in ipairs({ ... }) do
    made[key] = true
  end
  return made
end

-- The members that say where a request goes: of a body, of a message, and of a part of a message's content. A part's
-- `cache_control` is none of them: clients move it on with each turn.
local IN_BODY = set("context", "input", "instructions", "messages", "model", "name", "prompt", "system", "tools")
local IN_MESSAGE = set("content", "images", "role")
local IN_PART = set("content", "file", "file_id", "image_url", "input_audio", "source", "text", "title")
local PARTS = { "title", "source", "image_url", "input_audio", "file", "file_id", "content" }

-- The paths whose bodies name a model, and where in them the beginning of a prompt stands: in `messages` or `prompt`,
-- in `input`, or nowhere.
local TURNS, ITEMS, NOWHERE = "turns", "items", "nowhere"
local FORMS = {
  ["/api/chat"] = TURNS,
  ["/api/embed"] = NOWHERE,
  ["/api/embeddings"] = NOWHERE,
  ["/api/generate"] = TURNS,
  ["/api/show"] = NOWHERE,
  ["/v1/chat/completions"] = TURNS,
  ["/v1/completions"] = TURNS,
  ["/v1/embeddings"] = NOWHERE,
  ["/v1/messages"] = TURNS,
  ["/v1/messages/count_tokens"] = TURNS,
  ["/v1/responses"] = ITEMS,
  ["/v1/responses/compact"] = ITEMS,
}
local MODEL_PATH = "/v1/models/"

-- What changes the store of the pools. A copy names its models otherwise than all others.
local STORE_PATHS = set("/api/copy", "/api/create", "/api/delete", "/api/pull", "/api/push")
local COPY_PATH, BLOBS_PATH = "/api/copy", "/api/blobs/"
local IN_COPY = set("destination")
local ENCODED = "the gateway cannot read an encoded body, and so not tell its model: send it without Content-Encoding"

local function is_space(char)
  return char == 32 or (char ~= nil and char >= 9 and char <= 13)
end

local function trimmed(text)
  local first, last = 1, #text
  while is_space(byte(text, first)) do
    first = first + 1
  end
  while last >= first and is_space(byte(text, last)) do
    last = last - 1
  end
  return sub(text, first, last)
end

-- Where a text's last colon is, unless a slash comes behind it; else nil.
local function last_colon(text)
  for i = #text, 1, -1 do
    local char = byte(text, i)
    if char == 58 then
      return i
    elseif char == 47 then
      return nil
    end
  end
end

local function without(prefix, text)
  return sub(text, 1, #prefix) == prefix and sub(text, #prefix + 1) or text
end

-- A name as the servers compare names: without the parts that can be left out, with a tag, in lower case. Nil for what
-- is too long to be one.
local function canonical(name)
  if #name > MOST_NAME then
    return nil
  end
  name = lower(trimmed(name))
  local colon = last_colon(name)
  if colon and trimmed(sub(name, colon + 1)) == "local" then
    name = sub(name, 1, colon - 1)
  end
  local scheme = find(name, "://", 1, true)
  if scheme and scheme < find(name, "/", 1, true) then
    name = sub(name, scheme + 3)
  end
  name = without("library/", without("registry.ollama.ai/", name))
  return last_colon(name) and name or name .. ":latest"
end

local workloads = {}
local only -- the workload, where there is one alone
do
  local count = 0
  local seen = {}
  for name, workload in pairs(MODELS) do
    workloads[canonical(name)] = workload
    count = count + (seen[workload] and 0 or 1)
    seen[workload], only = true, workload
  end
  only = count == 1 and not POOLS and only or nil
end

-- Whether a pattern, in which `*` stands for anything, is a name's.
local function takes(pattern, name)
  local first, at = true, 1
  for part, star in pattern:gmatch("([^*]*)(%*?)") do
    local from, to = find(name, part, at, true)
    if star == "" then -- the last part ends the name
      return #name - #part + 1 >= at and (not first or #name == #part) and sub(name, #name - #part + 1) == part
    elseif not from or (first and from ~= 1) then
      return false
    end
    first, at = false, to + 1
  end
end

-- The pool for a name in its canonical form, or nil.
local function pool_of(name)
  for _, pool in ipairs(POOLS or {}) do
    if not pool.names then
      return pool
    end
    for _, pattern in ipairs(pool.names) do
      if takes(pattern, name) then
        return pool
      end
    end
  end
end

-- A body of `length` bytes, read in parts: `read(first, count)` gives those from `first` on. Positions count from 1.
local function reader(length, read)
  local body = { length = length }
  local steps = MOST_STEPS
  local part, start, stop = "", 1, 0 -- what is held, and where it stands
  local run, runs_to = 0, 0 -- backslashes at the end of the part before, and where that ended

  local function hold(i)
    if i >= start and i <= stop then
      return
    end
    local count = 0
    if i == stop + 1 then
      while count < #part and byte(part, #part - count) == 92 do
        count = count + 1
      end
      -- A part of nothing but backslashes goes on with those of the one before.
      if count == #part and runs_to == start - 1 then
        count = count + run
      end
    end
    run, runs_to = count, i - 1
    part = read(i, math.min(PART, length - i + 1))
    start, stop = i, i + #part - 1
  end

  -- Whether more of the body may be looked at; a body for which this is false once is not read any further.
  function body.may_go_on()
    steps = steps - 1
    return steps >= 0
  end

  function body.byte(i)
    if i > length then
      return nil
    end
    hold(i)
    return byte(part, i - start + 1)
  end

  -- Where the first character of a class stands, from `i` on, or nil.
  function body.find(class, i, plain)
    while i <= length do
      hold(i)
      local at = find(part, class, i - start + 1, plain)
      if at then
        return at + start - 1
      end
      i = stop + 1
    end
  end

  function body.sub(first, last)
    if first >= start and last <= stop then
      return sub(part, first - start + 1, last - start + 1)
    end
    return read(first, last - first + 1)
  end

  -- How many backslashes stand right before `i`, in the part that has it and what came before.
  function body.backslashes(i)
    local at = i - start
    while at >= 1 and byte(part, at) == 92 do
      at = at - 1
    end
    local count = i - start - at
    return at == 0 and runs_to == start - 1 and count + run or count
  end

  return body
end

-- The index behind the string whose first character is at `i`, or nil. Images are long: only quotes are looked for.
local function past_string(body, i)
  local quote = i - 1
  while true do
    quote = body.find('"', quote + 1, true)
    if not quote or not body.may_go_on() then
      return nil
    end
    if math.min(body.backslashes(quote), quote - i) % 2 == 0 then
      return quote + 1
    end
  end
end

-- The index behind the value that begins at `i`, or nil.
local function past_value(body, i)
  local first = body.byte(i)
  if first == 34 then
    return past_string(body, i + 1)
  end
  if first ~= 123 and first ~= 91 then
    return body.find("[,%]}%s]", i) or body.length + 1
  end
  local depth = 0
  while true do
    i = body.find('["%[%]{}]', i)
    if not i or not body.may_go_on() then
      return nil
    end
    local char = body.byte(i)
    if char == 34 then
      i = past_string(body, i + 1)
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

-- What stands between the quotes of a short string, read. Names need no more than the characters of one unit.
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

local function next_char(body, i)
  return body.find("[^ \t\r\n]", i) or body.length + 1
end

local function is_null(body, first, last)
  return last - first == 3 and body.sub(first, last) == "null"
end

-- The members of the object at `i` that are in `used`: from a key in lower case to where its last value is. Nil where it
-- is no object, ends before its brace, or has too many members. As in Go, a key may be written in any case: the one
-- that is written exactly counts before others, else the last.
local function members(body, i, used)
  i = next_char(body, i)
  if body.byte(i) ~= 123 or not body.may_go_on() then
    return nil
  end
  local found, exact = {}, {}
  i = next_char(body, i + 1)
  if body.byte(i) == 125 then
    return found, i + 1
  end
  for _ = 1, MOST_MEMBERS do
    if body.byte(i) ~= 34 then
      return nil
    end
    local behind = past_string(body, i + 1)
    if not behind then
      return nil
    end
    local written = behind - i <= MOST_KEY and unescaped(body.sub(i + 1, behind - 2)) or ""
    local key = lower(written)
    i = next_char(body, behind)
    if body.byte(i) ~= 58 then
      return nil
    end
    i = next_char(body, i + 1)
    local past = past_value(body, i)
    if not past then
      return nil
    end
    if used[key] then
      if written == key and not exact[key] then
        exact[key], found[key] = true, nil
      end
      -- null leaves what an earlier key has set.
      if (written == key or not exact[key]) and not is_null(body, i, past - 1) then
        found[key] = { i, past - 1 }
      end
    end
    i = next_char(body, past)
    local char = body.byte(i)
    if char == 125 then
      return found, i + 1
    elseif char ~= 44 then
      return nil
    end
    i = next_char(body, i + 1)
  end
end

-- The string at a place that `members` found, or nil; also where it is too long to be a name.
local function string_at(body, place)
  if not place or place[2] - place[1] > MOST_NAME * MOST_ESCAPED or body.byte(place[1]) ~= 34 then
    return nil
  end
  return unescaped(body.sub(place[1] + 1, place[2] - 1))
end

-- What stands for a text: its two ends and its length, so that long ones cost no more than short ones.
local function digest(body, first, last)
  if last - first < 2 * MOST_HASHED then
    return body.sub(first, last)
  end
  return body.sub(first, first + MOST_HASHED - 1) .. (last - first) .. body.sub(last - MOST_HASHED + 1, last)
end

-- Where a text goes on behind its line for billing, if it begins with one.
local function past_billing(body, first, last)
  if body.sub(first, math.min(last, first + #BILLING - 1)) ~= BILLING then
    return first
  end
  local line = body.sub(first, math.min(last, first + MOST_HASHED - 1))
  local at = find(line, "\\", 1, true)
  while at do
    if byte(line, at + 1) == 110 then
      return first + at + 1
    elseif lower(sub(line, at + 1, at + 5)) == "u000a" then
      return first + at + 5
    end
    at = find(line, "\\", at + 2, true)
  end
  return first + #line
end

-- What is hashed of a body, piece by piece.
local function gatherer(body)
  local pieces, count = {}, 0
  local gather = {}

  function gather.word(text)
    count = count + 1
    if count <= MOST_PIECES then
      pieces[count] = text
    end
  end

  function gather.place(place)
    if place then
      gather.word(count < MOST_PIECES and digest(body, place[1], place[2]) or "")
    end
  end

  -- A string, as it is written between its quotes.
  local function said(place)
    local first = count < MOST_PIECES and past_billing(body, place[1] + 1, place[2] - 1) or place[1] + 1
    if first < place[2] then
      gather.place({ first, place[2] - 1 })
    end
  end

  -- What is said in a string, or in a list of parts: the same for a text whether it is a string or the only part.
  function gather.content(place)
    local char = place and body.byte(place[1])
    if char == 34 then
      said(place)
    elseif char == 91 then
      local i = next_char(body, place[1] + 1)
      while i < place[2] do
        local part, past = members(body, i, IN_PART)
        if not part then
          return
        end
        if part.text and body.byte(part.text[1]) == 34 then
          said(part.text)
        end
        for _, name in ipairs(PARTS) do
          gather.place(part[name])
        end
        i = next_char(body, past)
        if body.byte(i) ~= 44 then
          return
        end
        i = next_char(body, i + 1)
      end
    else
      gather.place(place)
    end
  end

  -- All of it as one text.
  function gather.all()
    return table.concat(pieces, "\n") .. "\n" .. count
  end

  return gather
end

-- Gathers what all turns of a conversation begin with: the messages of the system, and the next one. A list of items
-- has more than one before the first answer (what an agent says of its surroundings, then the user's question), so there
-- it is all of the user's. A text alone is the user's message. False where there is no message.
local function gather_opening(body, place, gather, form)
  if body.byte(place[1]) ~= 91 then
    gather.word("user")
    gather.content(place)
    return true
  end
  local i, spoken = next_char(body, place[1] + 1), false
  while i <= place[2] and body.byte(i) == 123 do
    local message, past = members(body, i, IN_MESSAGE)
    if not message then
      return false
    end
    local role = lower(string_at(body, message.role) or "")
    if spoken and role ~= "user" then
      return true
    end
    spoken = spoken or (role ~= "system" and role ~= "developer")
    gather.word(role)
    gather.content(message.content)
    gather.place(message.images)
    i = next_char(body, past)
    if (spoken and form ~= ITEMS) or body.byte(i) ~= 44 then
      return true
    end
    i = next_char(body, i + 1)
  end
  return spoken
end

-- What requests have in common whose prompts begin alike; empty where nothing is cached (embeddings).
local function beginning(body, found, form)
  if form == NOWHERE then
    return ""
  end
  local gather = gatherer(body)
  gather.content(found.system)
  gather.word("")
  gather.content(form == ITEMS and found.instructions or nil)
  gather.word("")
  gather.place(found.tools)
  gather.word("")
  local opening = found.messages
  if form == ITEMS then
    opening = found.input
  end
  if opening then
    return gather_opening(body, opening, gather, form) and gather.all() or ""
  end
  -- A prompt that grows, and a context with each turn, keep their first part only.
  local grows = form == TURNS and (found.context or found.prompt)
  if not grows then
    return ""
  end
  gather.place({ grows[1], math.min(grows[2], grows[1] + MOST_HASHED - 1) })
  return gather.all()
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

local turn = 0

-- The pool for a name and what to hash: the name first, since a load costs more than a prompt that is not cached. Over
-- the pods of one model conversations are spread as `common` tells, and what has none in turn.
local function in_pool(name, common)
  local pool = pool_of(name)
  if not pool then
    return nil
  end
  local key = pool.slug .. "\n" .. name
  if pool.pods > 1 then
    local opening = common()
    turn = (turn + 1) % pool.pods
    key = key .. "\n" .. (opening ~= "" and tonumber(hashed(opening), 16) % pool.pods or turn)
  end
  return pool.slug, hashed(key)
end

-- The name that a body means, or nil.
local function named(body, found)
  local name = string_at(body, found.model)
  if not name or name == "" then
    name = string_at(body, found.name)
  end
  return name
end

-- The workload for a body of `length` bytes and what to hash, or nil. `read` is as for `reader`; `path` is without its
-- query.
function route(length, read, path)
  local body = reader(length, read)
  local copies = POOLS and path == COPY_PATH
  local found = members(body, 1, copies and IN_COPY or IN_BODY)
  if not found then
    return nil
  end
  local name
  if copies then
    name = string_at(body, found.destination)
  else
    name = named(body, found)
  end
  local known = name and canonical(name)
  if not known then
    return nil
  end
  local function common()
    return AFFINITY and beginning(body, found, FORMS[path] or NOWHERE) or ""
  end
  local workload = workloads[known]
  if workload then
    local opening = common()
    return workload, opening ~= "" and hashed(workload .. "\n" .. opening) or nil
  end
  if trimmed(name) == "" then
    return nil
  end
  return in_pool(known, common)
end

-- Where a blob goes, and what to hash of it: all pools have one store, so any of them takes it. Nil without pools.
function route_blob(path)
  if not POOLS or sub(path, 1, #BLOBS_PATH) ~= BLOBS_PATH then
    return nil
  end
  return POOLS[#POOLS].slug, hashed(sub(path, 1, MOST_NAME))
end

-- The workload of the model that a path names and what to hash, or nil.
function route_path(path)
  if sub(path, 1, #MODEL_PATH) ~= MODEL_PATH or #path > #MODEL_PATH + 3 * MOST_NAME then
    return nil
  end
  local name = sub(path, #MODEL_PATH + 1):gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end)
  local known = canonical(name)
  if not known then
    return nil
  elseif workloads[known] then
    return workloads[known]
  end
  return in_pool(known, function()
    return ""
  end)
end

-- Whether a request shows a key, where keys are wanted; whether it is a good one the servers know. A signature, as
-- Ollama's command line sends it, stands after a colon and without a scheme.
function may_enter(authorization, api_key)
  if not KEYED or (api_key ~= nil and api_key ~= "") then
    return true
  end
  if authorization == nil then
    return false
  end
  return lower(sub(authorization, 1, 7)) == "bearer "
    or lower(sub(authorization, 1, 6)) == "basic "
    or (find(authorization, ":", 1, true) ~= nil and not find(authorization, " ", 1, true))
end

local function is_encoded(encoding)
  encoding = encoding and lower(trimmed(encoding)) or ""
  return encoding ~= "" and encoding ~= "identity"
end

local function without_query(path)
  local query = find(path, "?", 1, true)
  return query and sub(path, 1, query - 1) or path
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove(MODEL)
  headers:remove(AFFINITY_KEY)
  local method, path = headers:get(":method"), without_query(headers:get(":path") or "")
  local function send(workload, hash)
    headers:add(MODEL, workload)
    if hash then
      headers:add(AFFINITY_KEY, hash)
    end
  end
  if method == "GET" then
    local workload, hash = route_path(path)
    if workload then
      send(workload, hash)
    end
    return
  end
  if method == "HEAD" or method == "POST" then
    local pool, hash = route_blob(path)
    if pool then
      -- Never its body: that would be to hold it here. Whoever shows no key is refused by the directory.
      if may_enter(headers:get("authorization"), headers:get("x-api-key")) then
        send(pool, hash)
      end
      return
    end
  end
  if method == "HEAD" or method == "OPTIONS" then
    return
  end
  -- The directory refuses it before its body has come; to look for a model would be to hold the body here.
  if not may_enter(headers:get("authorization"), headers:get("x-api-key")) then
    return
  end
  if (FORMS[path] or (POOLS and STORE_PATHS[path])) and is_encoded(headers:get("content-encoding")) then
    if only then
      headers:add(MODEL, only)
    else
      handle:respond({ [":status"] = "415", ["accept-encoding"] = "identity" }, ENCODED)
    end
    return
  end
  local body = handle:body()
  if not body or body:length() == 0 then
    return
  end
  local workload, hash = route(body:length(), function(first, count)
    return body:getBytes(first - 1, count)
  end, path)
  if workload then
    headers = handle:headers() -- the one from before the body came is no longer good
    send(workload, hash)
  end
end
