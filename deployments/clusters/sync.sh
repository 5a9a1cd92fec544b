#!/bin/bash
# Bring a release of the project's files and the machine's settings to the machine. Safe to run again.
# Expects: RELEASE, BUCKET, SECRETS_PARAMETER, ROLES_FILES, MACHINE_SETTINGS (lines NAME=value, without secrets).
set -euo pipefail
home=${HEARTWATCH_MACHINE_HOME:-/opt/heartwatch}
mkdir -p "$home/releases"
cd "$home"

if [ ! -d "releases/$RELEASE" ]; then
  rm -rf "releases/.$RELEASE"
  mkdir "releases/.$RELEASE"
  aws s3 cp --only-show-errors "s3://$BUCKET/releases/$RELEASE.tar.gz" - | tar -xz -C "releases/.$RELEASE"
  mv "releases/.$RELEASE" "releases/$RELEASE"
  echo "release $RELEASE unpacked"
fi

umask 077
printf '%s\n' "$MACHINE_SETTINGS" > machine.env.new
aws ssm get-parameter --name "$SECRETS_PARAMETER" --with-decryption --query Parameter.Value --output text > secrets.env.new
mv machine.env.new machine.env
mv secrets.env.new secrets.env
ln -sfn "releases/$RELEASE" current

for file in $ROLES_FILES; do
  docker compose --env-file secrets.env --env-file machine.env --file "current/docker/$file" config --quiet
done
echo "in sync with release $RELEASE"
