#!/usr/bin/env bash
# A day of a platform team, over a Git repository and a server of its own: a prompt that is worse is caught before it lands, one
# that is as good is merged, rolled out and promoted on evidence, and `git revert` takes it back at once.
#
#   examples/playbook.sh            # the program from the PATH, the demo's models of this repository
#   SWITCHBACK=target/release/switchback PORT=18080 examples/playbook.sh
#
# Needs git, curl and jq. Listens on loopback only, works in a temporary folder, and removes both at the end.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=$(realpath "$(command -v "${SWITCHBACK:-switchback}")")
port=${PORT:-18080}
work=$(mktemp -d)
pids=()

cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

step() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'playbook: %s\n' "$*" >&2
    tail -n 20 "$work"/*.log >&2 || true
    exit 1
}
switchback() { "$program" "$@"; }
digest_of() { printf 'sha256:%s' "$(sha256sum "$1" | cut -d' ' -f1)"; }

# Waits until a command succeeds, for some seconds.
until_holds() {
    local seconds=$1 what=$2
    shift 2
    for ((i = 0; i < seconds * 20; i++)); do
        if "$@"; then return; fi
        sleep 0.05
    done
    fail "$what: not within $seconds s"
}

# ---- the team's repository: configuration, prompts, suite -------------------------------------------------------------------
repository=$work/repository
git init --quiet --initial-branch=main "$repository"
cd "$repository"
git config user.name 'Ada' && git config user.email 'ada@example.com'
mkdir -p prompts suites env
image_digest=$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' "$root/switchback.yaml" | head -n 1)

cat >prompts/v1.md <<'PROMPT'
---
description: The support desk
temperature: 0
max_tokens: 96
---
Answer customers with one JSON object.
PROMPT
# the prompt and how it is decoded are the version's, so the suite asks without any of its own
sed -e '/"role": "system"/d' -e '/max_tokens: 200/d' "$root/suites/support.yaml" >suites/support.yaml

# The configuration that wants a version. Each has a digest: production serves nothing else.
configure() {
    local wanted=$1
    {
        cat <<YAML
server: { store: .switchback/state.db, images: .switchback/images }
policies:
  quick:
    steps: [{ setWeight: 25 }, { pause: { duration: 2s } }, { setWeight: 50 }, { pause: { duration: 2s } }, { setWeight: 100 }]
    margin_pp: 25
    min_samples: 30
    on_inconclusive: hold
models:
  support:
    version: $wanted
    policy: quick
    suite: { file: suites/support.yaml, max_regressions: 0 }
    checks: [is-json, refusal]
    versions:
YAML
        for prompt in prompts/*.md; do
            printf '      %s: { image: models/v1, digest: "%s", prompt: %s, prompt_digest: "%s" }\n' \
                "$(basename "$prompt" .md)" "$image_digest" "$prompt" "$(digest_of "$prompt")"
        done
    } >switchback.yaml
}
cat >env/prod.yaml <<YAML
server: { listen: 127.0.0.1:$port, admin: 127.0.0.1:$((port + 1)) }
YAML
cat >env/ci.yaml <<YAML
server: { mode: dev, listen: 127.0.0.1:$((port + 2)), admin: 127.0.0.1:$((port + 3)) }
YAML
printf '.switchback\nmodels\n' >.gitignore
ln -s "$root/models" models
configure v1
git add . && git commit --quiet --message 'Serve the support desk'

# ---- production: a clone that is pulled, and a server that follows it -------------------------------------------------------
step 'production serves main'
git clone --quiet "$repository" "$work/production"
ln -s "$root/models" "$work/production/models"
(cd "$work/production" && exec "$program" serve --env prod >"$work/production.log" 2>&1) &
pids+=($!)
admin=http://127.0.0.1:$((port + 1))
export SWITCHBACK_ADMIN=$admin
is_ready() { curl --silent --fail --output /dev/null "http://127.0.0.1:$1/ready"; }
until_holds 60 'production is ready' is_ready "$port"
deploy() { git -C "$work/production" pull --quiet; }
route_is() { [[ $(curl --silent "$admin/admin/models/support/route" | jq --compact-output .weights) == "$1" ]]; }
phase_is() { [[ $(curl --silent "$admin/admin/models/support/rollout" | jq --raw-output .rollout.phase) == "$1" ]]; }
until_holds 10 'v1 has all traffic' route_is '{"v1":100}'

# What CI does with a branch: check it, serve it beside production, and put the suite to it. Its status is the suite's.
ci() {
    local candidate=$1 status=0 pid
    switchback check --env ci
    switchback plan --env prod --from <(git show main:switchback.yaml)
    (exec "$program" serve --env ci >"$work/ci.log" 2>&1) &
    pid=$!
    until_holds 60 'the server of CI is ready' is_ready $((port + 2))
    switchback eval suites/support.yaml --url "http://127.0.0.1:$((port + 2))" \
        --model "support@$candidate" --baseline support@v1 --junit "$work/junit.xml" >"$work/eval.txt" 2>&1 || status=$?
    kill "$pid" && wait "$pid" 2>/dev/null || true
    tail -n 2 "$work/eval.txt"
    return "$status"
}

# ---- a change that is worse --------------------------------------------------------------------------------------------------
step 'a branch with a prompt that is worse'
git switch --quiet --create shorter
sed 's/max_tokens: 96/max_tokens: 24/' prompts/v1.md >prompts/v2.md
configure v2
git add . && git commit --quiet --message 'Keep answers short'
switchback diff support@v1 support@v2
if ci v2; then fail 'a prompt that cuts answers off has passed'; fi
grep --quiet '^broken: ' "$work/eval.txt" || fail 'the report names no broken case'
echo 'the branch does not land; one of the cases, of all that are told:'
grep --max-count 1 --after-context 1 '^broken: ' "$work/eval.txt" | cut -c 1-160

# ---- and one that is as good -------------------------------------------------------------------------------------------------
step 'the branch is mended'
sed 's/max_tokens: 96/max_tokens: 120/' prompts/v1.md >prompts/v2.md
configure v2
git add . && git commit --quiet --message 'Leave room for long answers'
ci v2 || fail "the mended prompt does not pass: $(cat "$work/eval.txt")"

step 'users ask all the while'
ask() {
    local products=(tent lamp kettle jacket) n=0 body
    while :; do
        n=$((n + 1))
        body=$(printf '{"model": "support", "user": "%s-%s", "messages": [{"role": "user", "content": "Where is my %s, order A-%05d?"}]}' \
            "$1" "$n" "${products[n % 4]}" $((n % 100000)))
        curl --silent --output /dev/null --write-out '%{http_code}\n' --header 'content-type: application/json' --data "$body" \
            "http://127.0.0.1:$port/v1/chat/completions" >>"$work/users-$1.txt" || echo lost >>"$work/users-$1.txt"
    done
}
for user in ann ben cid; do
    ask "$user" &
    pids+=($!)
done

step 'merged and pulled: the rollout begins by itself'
git switch --quiet main && git merge --quiet --no-ff --no-edit shorter
# said before it is so
(cd "$repository" && switchback plan --env prod) || fail 'the plan finds an obstacle'
deploy
until_holds 20 'a rollout begins' phase_is suite
until_holds 120 'its suite has passed' phase_is step
curl --silent "$admin/admin/models" |
    jq --raw-output '.models[0].versions[] | "\(.version): \(.weight_bytes) bytes of weights, \(.shared_bytes) of them shared"'
until_holds 300 'it is promoted' phase_is promoted
route_is '{"v2":100}' || fail 'the promoted version has not all traffic'
switchback rollout history support | head -n 12

step 'git revert'
git revert --no-edit --mainline 1 HEAD >/dev/null
grep --quiet 'version: v1' switchback.yaml || fail 'the revert did not bring v1 back'
reverted=$(date +%s%N)
deploy
pulled=$(date +%s%N)
until_holds 10 'stable is back' route_is '{"v1":100}'
back=$(date +%s%N)
printf 'v1 has all traffic %s ms after the pull (%s ms with it)\n' \
    $(((back - pulled) / 1000000)) $(((back - reverted) / 1000000))
(((back - pulled) < 1000000000)) || fail 'that took longer than a second'

step 'what the audit log tells'
curl --silent "$admin/admin/audit" | jq --raw-output '.entries | reverse | .[] | "\(.actor)\t\(.action)\t\(.detail // "")\t\(.reason // "")"' |
    cut -c 1-180 | tee "$work/audit.txt"
tell=('support@v2: added' 'version v2 (was v1)' 'suite -> step' 'promoted, v2=100' 'rollback' 'version v1 (was v2)')
for line in "${tell[@]}"; do
    grep --quiet --fixed-strings "$line" "$work/audit.txt" || fail "the audit log does not tell: $line"
done

answers=$(cat "$work"/users-*.txt | wc -l)
failed=$(cat "$work"/users-*.txt | grep --count --invert-match '^200$' || true)
printf '\n%s answers to users meanwhile, %s failed\n' "$answers" "$failed"
[[ $failed == 0 ]] || fail 'requests were lost'
echo 'the playbook holds'
