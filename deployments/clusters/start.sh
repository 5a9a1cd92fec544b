#!/bin/bash
# Start the services of a machine and wait until they are healthy; those that run unchanged stay as they are.
# Expects: ROLES_FILES, in the order of their start, and WAIT_SECONDS.
set -euo pipefail
cd "${HEARTWATCH_MACHINE_HOME:-/opt/heartwatch}"
[ -f secrets.env ] || { echo "this machine has no files yet; run sync-clusters first" >&2; exit 3; }

for file in $ROLES_FILES; do
  compose=(docker compose --project-name "heartwatch-${file%.yaml}" --env-file secrets.env --env-file machine.env --file "current/docker/$file")
  if ! "${compose[@]}" up --detach --build --quiet-pull --wait --wait-timeout "$WAIT_SECONDS"; then
    "${compose[@]}" ps --all >&2
    "${compose[@]}" logs --tail 20 --no-log-prefix >&2
    echo "$file is not healthy after $WAIT_SECONDS s" >&2
    exit 4
  fi
  echo "$file is healthy"
done
