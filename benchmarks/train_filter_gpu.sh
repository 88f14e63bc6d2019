#!/usr/bin/env bash
# Train the learned filter on an accelerator, four recipes side by side, about a minute more than the minutes given:
#     bash benchmarks/train_filter_gpu.sh OUT [MINUTES]
# Half of the clips are plain, half have a hand's shake, motion blur, things that stretch, and a codec's losses.
set -u
out=$1 minutes=${2:-4.3} python=${PYTHON:-python}
export PYTHONPATH=src OMP_NUM_THREADS=1
world=$(mktemp -d)
mkdir -p "$out"
begun=$SECONDS
"$python" -m steadydepth.cli data make "$world" --clips 50 --frames 32 --seed 5000 --workers 15 > "$out/world.log" 2>&1
timeout 90 "$python" -m steadydepth.cli data make "$world" --clips 100 --frames 32 --seed 5000 --workers 15 \
    --shake --blur --deform --compress 26 >> "$out/world.log" 2>&1
# What took too long to render is made plainly.
"$python" -m steadydepth.cli data make "$world" --clips 100 --frames 32 --seed 5000 --workers 15 >> "$out/world.log" 2>&1
echo "rendered in $((SECONDS - begun)) s" >> "$out/world.log"
train() {
    local name=$1
    shift
    "$python" -m steadydepth.cli train-filter -c configs/temporal_filter.yaml "data=$world" device=cuda \
        workers=3 batch=8 sequences=100000 "minutes=$minutes" log_every=50 "out=$out/$name.safetensors" "$@" \
        > "$out/$name.log" 2>&1
}
train a contrast_weight=2 &
train b contrast_weight=5 &
train c contrast_weight=2 width=24 &
train d contrast_weight=2 relative_weight=6 &
wait
rm -r "$world"
tail -n 2 "$out"/*.log
