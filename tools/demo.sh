#!/bin/sh
# Runs the exporter against the simulator until Ctrl-C. Called by `make demo`, with
# these addresses unless DEMO_METADATA_ADDRESS, DEMO_CONTROL_ADDRESS or DEMO_WEB_ADDRESS
# is another HOST:PORT.
set -eu
metadata=${DEMO_METADATA_ADDRESS:-127.0.0.1:10980}
control=${DEMO_CONTROL_ADDRESS:-127.0.0.1:10981}
web=${DEMO_WEB_ADDRESS:-127.0.0.1:10988}
kubernetes=${DEMO_KUBERNETES_DIRECTORY:-bin/demo}

rm -f "$kubernetes/environment"
bin/gke-metadata-simulator -metadata-address "$metadata" -control-address "$control" -kubernetes-directory "$kubernetes" &
simulator=$!
# What the exporter needs to know of it is written when all of it is there.
until [ -s "$kubernetes/environment" ]; do
	kill -0 $simulator 2>/dev/null || {
		echo "demo: the simulator could not start, see above; where a port is taken, set DEMO_METADATA_ADDRESS or DEMO_CONTROL_ADDRESS, HOST:PORT" >&2
		exit 1
	}
	sleep 0.1
done
# GCE_METADATA_HOST and proxies of this shell play no part: the exporter ignores them.
env $(cat "$kubernetes/environment") WI_LISTEN_ADDRESS="$web" WI_METADATA_HOST="$metadata" \
	WI_PROBE_INTERVAL=2s WI_PROBE_TIMEOUT=1s WI_TOKEN_INTERVAL=2s WI_LOG_FORMAT=text \
	bin/workload-identity-exporter 2>"$kubernetes/exporter.log" &
exporter=$!

# Ctrl-C reaches all processes of the terminal, and each of them stops by itself;
# a second signal would cut that short. So they get two seconds before they get one.
running() { kill -0 $exporter 2>/dev/null || kill -0 $simulator 2>/dev/null; }
stop() {
	trap '' INT TERM
	kill $exporter $simulator 2>/dev/null || true
	wait $exporter $simulator 2>/dev/null || true
}
interrupted() {
	trap '' INT TERM
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		running || exit 0
		sleep 0.2
	done
	stop
	exit 0
}
trap interrupted INT
trap 'stop; exit 0' TERM

sleep 1 # their first lines come first
if ! kill -0 $simulator 2>/dev/null || ! kill -0 $exporter 2>/dev/null; then
	stop
	cat "$kubernetes/exporter.log" >&2
	echo "demo: one of the two could not start, see above; where a port is taken, set DEMO_WEB_ADDRESS=HOST:PORT" >&2
	exit 1
fi
cat <<END

  status page   http://$web/
  metrics       http://$web/metrics
  log           $kubernetes/exporter.log

  Let the node's metadata server answer, from another terminal, and see the state
  change at the next probe:
    curl -X PUT $control/fault/bypass
    curl -s $web/metrics | grep -E '_(state|suspected_cause){.*1\$'
  The status page has the cause and its remedy, and so has the Event that is printed
  here. The same, asked once, as a gate before a Pod starts:
    env \$(cat $kubernetes/environment) WI_METADATA_HOST=$metadata bin/workload-identity-exporter check
  Repair it:
    curl -X PUT $control/fault/healthy
  Other faults: curl $control/faults, or bin/gke-metadata-simulator fault NAME

  Ctrl-C stops both.

END
while kill -0 $simulator 2>/dev/null && kill -0 $exporter 2>/dev/null; do
	sleep 1 &
	wait $! || true # so that a signal is seen at once
done
stop
echo "demo: one of the two has ended, see above and $kubernetes/exporter.log" >&2
exit 1
