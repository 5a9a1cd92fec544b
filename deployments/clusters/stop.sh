#!/bin/bash
# Stop the services of a machine; their volumes stay. Safe to run again.
# Expects: ROLES_FILES, in the order of their stop.
set -euo pipefail
cd "${HEARTWATCH_MACHINE_HOME:-/opt/heartwatch}"
[ -f secrets.env ] || { echo "nothing to stop"; exit 0; }

for file in $ROLES_FILES; do
  docker compose --project-name "heartwatch-${file%.yaml}" --env-file secrets.env --env-file machine.env --file "current/docker/$file" down
  echo "$file is stopped"
done
