#!/bin/sh
# Run a Salt function on minions and print minion -> answer as JSON, after SECONDS at the latest.
# `salt` would ask silent minions again and again, for as long as its master's configuration says.
# Arguments: PYTHON SECONDS TARGET_TYPE TARGET FUNCTION [ARGUMENT...]
set -eu
python=$1 seconds=$2
shift 2
code=0
timeout "$((seconds + 5))" "$python" -c '
import json, sys, time
import salt.client
seconds, target_type, target, function, *arguments = sys.argv[1:]
found = {}
with salt.client.LocalClient() as client:
    job = client.run_job(target, function, arguments, target_type, listen=True)
    waiting = set(job.get("minions", ()))
    end = time.monotonic() + float(seconds)
    while waiting and (left := end - time.monotonic()) > 0:
        event = client.event.get_event(left, "salt/job/{jid}/ret".format(**job))
        if event:
            found[event["id"]] = event["return"]
            waiting.discard(event["id"])
print(json.dumps(found))
' "$seconds" "$@" || code=$?
[ "$code" != 124 ] || echo "the Salt master does not answer" >&2
exit "$code"
