#!/bin/sh
# Fuzzes each target for a number of executions, one after another, and stops at the
# first input that fails: it is then in testdata/fuzz/ of the package, to be committed
# with the repair.
set -eu
share=${FUZZ_SHARE:-1} # of the executions, as a divisor: 10 is a tenth
total=$(date +%s)
for file in $(grep -rl '^func Fuzz' --include='*_test.go' internal cmd); do
	package=./$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' "$file"); do
		[ -z "${FUZZ_TARGET:-}" ] || [ "$FUZZ_TARGET" = "$target" ] || continue
		case $target in
		FuzzWire) count=$((50000 / share)) ;;
		*) count=$((1000000 / share)) ;;
		esac
		log=$(mktemp)
		# An input that finds new code is not made smaller for a minute, as it is by default.
		if ! "${GO:-go}" test -run '^$' -fuzz "^$target\$" -fuzztime "${count}x" -fuzzminimizetime 20x -parallel 2 "$package" >"$log" 2>&1; then
			cat "$log"
			rm "$log"
			echo "fuzz: $package $target fails; the input is in $package/testdata/fuzz/$target" >&2
			exit 1
		fi
		sed -n "s|^ok.*[[:space:]]\([0-9.]*\)s\$|\1 $count|p" "$log" |
			awk -v t="$package $target" '{ printf "fuzz: %-44s %8d executions %7.1f s %8.0f each second\n", t, $2, $1, $2 / $1 }'
		rm "$log"
	done
done
echo "fuzz: $(($(date +%s) - total)) s in all"
