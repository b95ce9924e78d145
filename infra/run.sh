#!/usr/bin/env bash
# A job as KubeRay's entrypoint: run.sh JOB.py [settings]
#
# KubeRay does again whatever does not exit with 0. An end that was asked for (130: --stop-at, --max-cost, SIGTERM) is no
# failure: done again, the run would go on until the next day's hour. Other codes stay as they are.
trap : TERM INT # to wait for the job, which gets the signal too and ends at a shard border
python "$@"
code=$?
[ "$code" -eq 130 ] && exit 0
exit "$code"
