-- A client that sends or reads too slowly is given up. Managed by Salt (salt/haproxy).
--
-- HAProxy's timeouts begin again with each byte, so a byte now and then would keep a web machine's
-- slot for as long as the client likes. A body that is too slow is answered 408; an answer that has
-- begun just ends. `txn.is_paced` says which requests this concerns: not those that wait for the
-- end of a run. What fits a buffer passes at once and is not looked at: bodies but those of
-- `txn.upload`, and small answers.
--
-- filter lua.pace SECONDS BYTES SECONDS BYTES: a body has so many seconds, and one more for each so
-- many bytes; then the same of an answer.

local BUFFER = 16384

local Pace = {id = "pace", flags = filter.FLT_CFG_FL_HTX}

-- `self` is the filter of the configuration, with its limits.
function Pace:new()
  return setmetatable({passed = {}, began = {}}, {__index = self})
end

local function is_large(headers)
  local length = headers["content-length"]
  return headers["transfer-encoding"] or length and tonumber(length[0]) > BUFFER
end

function Pace:http_headers(txn, message)
  local is_answer = message.channel:is_resp()
  local is_slow = txn:get_var("txn.upload")
  if is_answer then
    is_slow = is_large(message:get_headers())
  end
  if is_slow and txn:get_var("txn.is_paced") then
    self.passed[is_answer], self.began[is_answer] = 0, core.now().sec
    filter.register_data_filter(self, message.channel)
  end
  return filter.CONTINUE
end

function Pace:http_payload(txn, message)
  local is_answer, size = message.channel:is_resp(), message:input()
  local limit = self.limits[is_answer]
  self.passed[is_answer] = self.passed[is_answer] + size
  local allowed = limit.seconds + self.passed[is_answer] / limit.bytes
  if core.now().sec - self.began[is_answer] > allowed then
    if is_answer then
      txn:done()
    else
      txn:done(txn:reply{status = 408, reason = "Request Timeout", body = "Too slow\n"})
    end
  end
  message:forward(size)
  return filter.CONTINUE
end

core.register_filter("pace", Pace, function(pace, args)
  local function limit(first)
    return {seconds = tonumber(args[first]), bytes = tonumber(args[first + 1])}
  end
  pace.limits = {[false] = limit(1), [true] = limit(3)}
  return pace
end)
