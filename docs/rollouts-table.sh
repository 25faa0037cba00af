#!/usr/bin/env bash
# The tables of rollouts.md, from simulations: prints Markdown. Needs a release build.
set -euo pipefail
cd "$(dirname "$0")/.."
simulate() { target/release/switchback simulate --policy customer-facing --stable 0.92 --seed 1 --json "$@"; }
read_keys() { python3 -c '
import json, sys
r = json.load(sys.stdin); t = r["threshold_rule"]
p = lambda x: f"{100 * x:.1f} %"
print(sys.argv[1].format(abort=p(r["abort"]), promote=p(r["promote"]), unknown=p(r["inconclusive"]), ma=r["median_minutes_to_abort"], me=r["median_minutes_to_evidence"], users=round(r["users_exposed"]), tabort=p(t["abort"]), tpromote=p(t["promote"]), tma=t["median_minutes_to_abort"]))' "$1"; }
five=(--margin-pp 5 --runs 10000)
echo "## beside the threshold rule"
simulate "${five[@]}" --drop 0 --rate 100 | read_keys "| no drop, 100 requests a minute: aborted | {abort} | {tabort} |"
simulate "${five[@]}" --drop 0 --rate 30 | read_keys "| no drop, 30 a minute: aborted | {abort} | {tabort} |
| no drop, 30 a minute: says that it cannot tell | {unknown} | never |"
simulate "${five[@]}" --drop 0.05 --rate 100 | read_keys "| drop of 5 points, 100 a minute: aborted | {abort} | {tabort} |"
simulate "${five[@]}" --drop 0.10 --rate 30 | read_keys "| drop of 10 points, 30 a minute: aborted, median after | {abort}, {ma} min | {tabort}, {tma} min |"
simulate "${five[@]}" --drop 0 --rate 600 | read_keys "| no drop, 600 a minute: aborted; promoted; evidence for that, median after | {abort}; {promote}; {me} min | {tabort}; {tpromote}; 60 min |"
simulate "${five[@]}" --drop 0 --rate 100 --users-requests 10 --icc 0.3 | read_keys "| no drop, 100 a minute, 10 requests a user with correlation 0.3: aborted | {abort} | {tabort} |"
simulate "${five[@]}" --drop 0 --rate 100 --drift 0.3 | read_keys "| no drop, but both arms fall by 30 points over the hour: aborted | {abort} | {tabort} |"
echo "## how to choose"
for margin in 2 3 5; do for rate in 30 100 300 1000; do
  drop=$(python3 -c "print($margin / 100)")
  good=$(simulate --margin-pp $margin --drop 0 --rate $rate --runs 2000 | read_keys "{promote}, {me} min | {abort}")
  bad=$(simulate --margin-pp $margin --drop "$drop" --rate $rate --runs 2000 | read_keys "{abort}, {ma} min | {unknown}")
  echo "| $margin | $rate | $good | $bad |"
done; done
echo "## guardrails at their limits, each with an alpha of 5 %"
config=$(mktemp); trap 'rm -f "$config"' EXIT
cat > "$config" <<'YAML'
server: { mode: dev }
models: { m: { versions: { v1: { image: m } } } }
policies:
  limits:
    steps: [{setWeight: 5}, {pause: {duration: 20m}}, {setWeight: 25}, {pause: {duration: 40m}}, {setWeight: 100}]
    guardrails:
      alpha: 0.15
      latency: { max_ratio: 1.5 }
      time_per_output_token: { quantile: 0.5, max_ratio: 1.5 }
      output_length: { max_change: 50% }
YAML
limits() { target/release/switchback simulate --config "$config" --rate 100 --runs 2000 --seed 3 --json "$@" \
  | python3 -c 'import json, sys; print(sys.argv[1], json.load(sys.stdin)["guardrails"])' "$*"; }
for users in "--users-requests 1" "--users-requests 10 --icc 0.3"; do
  # shellcheck disable=SC2086
  for ratio in "--latency-ratio 1.5" "--length-ratio 1.5" "--latency-ratio 1"; do limits --policy limits $ratio $users; done
  # shellcheck disable=SC2086
  for ratio in "--latency-ratio 3" "--length-ratio 2"; do limits --policy customer-facing $ratio $users; done
done
