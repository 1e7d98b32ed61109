# shellcheck shell=bash
# To be sourced, as root on Debian, where there is no Docker engine and no image registry: sets podman
# up so that it runs inside a container or VM without systemd, and makes a stand-in for the base image
# out of Debian's own packages. `deploy/container/build` and the tests then work as anywhere else.
# All of it lies in CARID_CONTAINERS (by default a folder in /var/tmp).

CARID_CONTAINERS=${CARID_CONTAINERS:-/var/tmp/car-identifier-containers}
mkdir -p "$CARID_CONTAINERS/tmp"

needed=(podman buildah runc netavark slirp4netns catatonit mmdebstrap)
if ! dpkg -s "${needed[@]}" >/dev/null 2>&1; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
fi

export CARID_ENGINE=podman
export CONTAINERS_STORAGE_CONF=$CARID_CONTAINERS/storage.conf
export CONTAINERS_CONF=$CARID_CONTAINERS/containers.conf
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$CARID_CONTAINERS/storage"
runroot = "$CARID_CONTAINERS/run"
END
cat >"$CONTAINERS_CONF" <<'END'
[containers]
netns = "slirp4netns"
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
END

# What pip needs on this machine it needs in the build too: certificates of its own, settings, wheels.
export CARID_BASE=localhost/debian-stand-in:bookworm
export CARID_BUILD_ARGS="--isolation chroot --network host --pull=never --layers"
wheels=$(python3 -m pip config get global.find-links 2>/dev/null || true)
if [[ -d $wheels ]]; then export CARID_WHEELS=$wheels; fi

if ! podman image exists "$CARID_BASE"; then
  # shellcheck disable=SC2016 # $1 is the hook's
  mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || :' \
    --customize-hook='chroot "$1" update-ca-certificates >/dev/null' \
    --customize-hook='if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$1/etc/pip.conf"; fi' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
    bookworm "$CARID_CONTAINERS/base.tar"
  podman import --quiet --change 'CMD ["bash"]' "$CARID_CONTAINERS/base.tar" "$CARID_BASE" >/dev/null
  rm "$CARID_CONTAINERS/base.tar"
fi
