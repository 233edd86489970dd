#!/usr/bin/env bash
# Measures Weir against its peers; `make bench` calls it after the microbenches. Asks nothing, takes some 8 minutes.
#
#   benches/run.sh [ROUNDS]     rounds of each comparison, 3 when absent
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:$HOME/.cargo/bin
rounds=${1:-3}

echo "==> the machine: $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
    "$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo), $(. /etc/os-release && echo "$PRETTY_NAME")," \
    "load $(cut -d' ' -f1 /proc/loadavg)"

for tool in ffmpeg nginx; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || {
        echo "$tool is missing: scripts/install-deps test bench" >&2
        exit 1
    }
done

echo "==> building the benchmarks"
cargo build --quiet --release --locked
cargo bench --quiet --locked --no-run --bench peers

echo "==> ingest, idling and the first picture, beside nginx-rtmp ($rounds rounds)"
cargo bench --quiet --locked --bench peers -- --rounds "$rounds"

# The encoders' comparison is a benchmark of its own: a script, or a target that cargo knows.
if [[ -x benches/transcode/run.sh ]]; then
    echo "==> transcoding, beside ffmpeg"
    benches/transcode/run.sh
elif grep -q '^name = "transcode"' Cargo.toml; then
    echo "==> transcoding, beside ffmpeg"
    cargo bench --quiet --locked --bench transcode
fi
