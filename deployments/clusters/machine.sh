#!/bin/bash
# First boot of a machine (EC2 user data): its data volume, and Docker with Compose.
set -euo pipefail

dnf install -y docker tar gzip

# Machines that keep data have a second volume, attached soon after the start.
if [ "${DATA_VOLUME}" = yes ]; then
  for _ in $(seq 150); do
    [ -b /dev/sdf ] && break
    sleep 2
  done
  blkid /dev/sdf || mkfs.xfs /dev/sdf
  mkdir -p /var/lib/docker
  echo '/dev/sdf /var/lib/docker xfs defaults,nofail 0 2' >> /etc/fstab
  mount /var/lib/docker
fi

systemctl enable --now docker

# Amazon Linux has no package of the Compose plugin; Docker publishes it as an image.
plugins=/usr/local/lib/docker/cli-plugins
mkdir -p "$plugins"
container=$(docker create docker/compose-bin:v2.40.3 none)
docker cp "$container:/docker-compose" "$plugins/docker-compose"
docker rm "$container"
