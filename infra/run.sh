#!/usr/bin/env bash
# Run a job as the entrypoint of a RayJob: run.sh JOB.py [settings]
#
# KubeRay repeats a job whose exit code is not 0. A graceful stop (130: --stop-at, --max-cost, SIGTERM) is not a failure.
# A repeated job would run until the stop time of the next day, so 130 becomes 0. Other exit codes are kept.
trap : TERM INT # the job gets the signal too and stops after its current shards; wait for it
python "$@"
code=$?
[ "$code" -eq 130 ] && exit 0
exit "$code"
