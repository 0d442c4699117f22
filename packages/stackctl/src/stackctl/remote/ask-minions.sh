#!/bin/sh
# Run a Salt function on minions and print minion -> answer as JSON, after SECONDS at the latest.
# A minion that has not answered after a quarter of SILENT is pinged, and is given up after SILENT
# if it does not answer that either. `salt` would wait for such minions for as long as the
# configuration of its master says.
# Arguments: PYTHON SECONDS SILENT TARGET_TYPE TARGET FUNCTION [ARGUMENT...]
set -eu
python=$1
shift
code=0
timeout "$(($1 + 10))" "$python" -c '
import json, sys, time
import salt.client
seconds, silent, target_type, target, function, *arguments = sys.argv[1:]
seconds, silent = float(seconds), float(silent)
answers, alive = {}, set()
with salt.client.LocalClient() as client:
    begin = time.monotonic()
    job = client.run_job(target, function, arguments, target_type, listen=True)
    asked = set(job.get("minions", ()))
    def collect(until, ended):
        while not ended() and (left := begin + until - time.monotonic()) > 0:
            event = client.event.get_event(left, "salt/job/")
            if event and "return" in event:
                alive.add(event["id"])
                if event["jid"] == job["jid"]:
                    answers[event["id"]] = event["return"]
    collect(min(silent / 4, seconds), lambda: asked <= set(answers))
    waiting = sorted(asked - set(answers))
    if waiting and silent < seconds:
        client.run_job(waiting, "test.ping", (), "list", listen=True)
        collect(silent, lambda: asked <= alive)
        asked &= alive
    collect(seconds, lambda: asked <= set(answers))
print(json.dumps(answers))
' "$@" || code=$?
[ "$code" != 124 ] || echo "the Salt master does not answer" >&2
exit "$code"
