#!/bin/sh
# Tests the Alertmanager example by amtool: that it is read, and who gets what.
# Called by `make test-alerts`.
set -eu
amtool=${AMTOOL:-amtool}
cd "$(dirname "$0")/.."

"$amtool" check-config alertmanager.yaml

# goes RECEIVER LABEL=VALUE...
goes() {
	receiver=$1
	shift
	"$amtool" config routes test --config.file=alertmanager.yaml --verify.receivers="$receiver" "$@" >/dev/null || {
		echo "alertmanager.yaml: $* does not go to $receiver" >&2
		exit 1
	}
}
# Each alert goes where its severity says.
alerts=$(awk '/- alert: / { name = $3 } /severity: / { print name "=" $2 }' workload-identity.rules.yaml)
[ -n "$alerts" ]
for alert in $alerts; do
	case ${alert#*=} in
	critical) receiver=page ;;
	warning) receiver=ticket ;;
	*) echo "${alert%=*}: severity ${alert#*=}" >&2; exit 1 ;;
	esac
	goes "$receiver" "alertname=${alert%=*}" "severity=${alert#*=}" cluster=a node=n
done
# What is not ours is not paged by us.
goes ticket alertname=Other severity=critical
echo "alertmanager.yaml: $(echo "$alerts" | wc -l) alerts go where they should"
