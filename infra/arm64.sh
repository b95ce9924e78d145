#!/usr/bin/env bash
# Run the short tests of led/ and a job of five documents on aarch64, under emulation, in a Debian below FOLDER.
#
#   infra/arm64.sh FOLDER [tests|job]
#
# Needs root, Debian 12, the environment of `make test`, 6 GB and about an hour. torch 2.9.1 is the last version
# whose aarch64 wheel for Python 3.11 is a CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "$1")
what=${2:-all}
root=$folder/root
site=$root/opt/site

if ! [[ -e $folder/.ready ]]; then
    apt-get install -y -qq debootstrap qemu-user-static >/dev/null
    [[ -e /proc/sys/fs/binfmt_misc/register ]] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    if ! [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]]; then
        grep -v '^#' /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
    fi
    mkdir -p "$folder"
    debootstrap --arch=arm64 --variant=minbase --include=python3.11,libgomp1,procps bookworm "$root" >/dev/null
    grep -vE '^(torch|triton)==' constraints.txt >"$folder/constraints.txt"
    install=(.venv/bin/pip install -q --target "$site" --python-version 3.11 --implementation cp --only-binary=:all:)
    for glibc in 28 27 17; do install+=(--platform "manylinux_2_${glibc}_aarch64"); done
    install+=(--platform manylinux2014_aarch64)
    "${install[@]}" --no-deps torch==2.9.1
    "${install[@]}" -c "$folder/constraints.txt" absl-py annotated-types filelock fsspec huggingface_hub hypothesis jinja2 \
        networkx nltk numpy pyarrow pydantic pytest pyyaml 'ray[data,default]' rich s3fs safetensors six sympy \
        tokenizers typing-extensions tyro
    "${install[@]}" -c "$folder/constraints.txt" --no-deps packaging regex tqdm transformers
    .venv/bin/pip install -q --target "$site" --no-deps rouge-score
    touch "$folder/.ready"
fi

for each in proc sys dev; do
    mountpoint -q "$root/$each" || mount --bind "/$each" "$root/$each"
done
trap 'umount "$root/dev" "$root/sys" "$root/proc"' EXIT
rm -rf "$root/work" && mkdir "$root/work"
git archive HEAD | tar x -C "$root/work"

run() {
    chroot "$root" /usr/bin/env PYTHONPATH=/opt/site:/work HOME=/root LC_ALL=C.UTF-8 OMP_NUM_THREADS=1 \
        sh -c "cd /work && $*"
}
if [[ $what != job ]]; then
    run python3.11 -m pytest -q -p no:cacheprovider -W ignore tests/led/ops tests/led/kv_cache tests/led/heads \
        tests/led/test_config.py tests/led/checkpoint/test_weights.py tests/led/model
fi
if [[ $what != tests ]]; then
    rm -rf "$folder/x86" "$root/tmp/arm"
    .venv/bin/python -m benchmarks.five_documents --output "$folder/x86"
    run python3.11 -m benchmarks.five_documents --output /tmp/arm
    .venv/bin/python -m benchmarks.five_documents --output "$root/tmp/arm" --compare "$folder/x86"
fi
