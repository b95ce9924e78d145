#!/usr/bin/env bash
# An S3 server on this machine for trials and tests: Ceph's radosgw over one monitor and one store in memory.
#
#   apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd curl
#   infra/s3-server.sh FOLDER PORT     ready in about 15 s at http://127.0.0.1:PORT, key AK, secret SK; uses PORT to PORT + 2
#   infra/s3-server.sh FOLDER stop     everything in it is gone
set -euo pipefail
folder=$(realpath -m "$1")
if [ "$2" = stop ]; then
    for pid in "$folder"/run/*.pid; do kill "$(cat "$pid")" 2>/dev/null || true; done
    exit 0
fi
port=$2 mon=$(($2 + 1)) mon2=$(($2 + 2)) fsid=$(cat /proc/sys/kernel/random/uuid)
mkdir -p "$folder"/{mon,osd,run}
export CEPH_CONF=$folder/ceph.conf
# A monitor with one kind of address alone refuses its own cluster, so both are given.
addresses="[v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon]"
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = $addresses
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = $folder/run
admin socket = $folder/run/\$name.asok
pid file = $folder/run/\$name.pid
log file = $folder/run/\$name.log
mon data = $folder/mon
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
ms mon client mode = crc
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw enable usage log = false
debug rgw = 0/0
CONF
{
    monmaptool --create --fsid "$fsid" --addv a "$addresses" "$folder/monmap"
    ceph-mon -i a --mkfs --monmap "$folder/monmap"
    ceph-mon -i a
    osd=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$osd"
    ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    ceph osd crush add-bucket here host
    ceph osd crush move here root=default
    ceph osd crush add osd.0 1.0 host=here
    ceph-osd -i 0
    radosgw-admin user create --uid=trial --display-name=trial --access-key=AK --secret-key=SK
    radosgw -n client.rgw
} >"$folder/start.log" 2>&1 || { tail -5 "$folder/start.log" >&2; exit 1; }
for _ in $(seq 300); do curl -s -o /dev/null "http://127.0.0.1:$port/" && exit 0; sleep 0.1; done
echo "no answer on port $port after 30 s; see $folder/start.log" >&2
exit 1
