#!/usr/bin/env bash
# Ten minutes of a large GPU, all of them used: the ready model goes on for accuracy and has the GPU alone while the
# processors render what the rest learns from; then its steady stage, recipes of the learned filter and the sweep of
# label-free and labelled recipes run side by side. What is worth carrying home is in OUT, in files under 16 MB.
#
#     [ASSETS=assets.npz] [TEXTURES=photos] [WEIGHTS=lite0.pth] [SECONDS_IN_ALL=590] [JOBS=7] \
#     [MODEL=... VIDEOS=... RGBD=...] bash benchmarks/gpu.sh OUT
#
# ASSETS is what `steadydepth data assets` packs; without it the world has simple bodies. MODEL, VIDEOS and RGBD are those of stabilise_sweep.py.
set -u
out=$1 all=${SECONDS_IN_ALL:-590} python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)} work=$(mktemp -d) begun=$SECONDS
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out" "$work/logs" "$work/filter" "$work/ready"
workers=$(( $(nproc) > 3 ? $(nproc) - 3 : 1 ))
left() { echo $(( $1 * all / 590 - (SECONDS - begun) )); }
minutes() { "$python" -c "print(max($(left "$1"), 1) / 60)"; }
make_world() { nice -n 5 "$python" -m steadydepth data make "$@" --workers "$workers" >> "$work/logs/world.log" 2>&1; }
ready() {
    OMP_NUM_THREADS=2 timeout -s TERM "$2" "$python" benchmarks/gpu.py "$1" --minutes "$3" --out "$work/ready" \
        ${ASSETS:+--assets "$ASSETS"} ${TEXTURES:+--textures "$TEXTURES"} --weights "${WEIGHTS:-package}" > "$work/logs/$1.log" 2>&1
}
sweep() {
    "$python" benchmarks/stabilise_sweep.py --out "$work/sweep" --train "$work/train" --test "$work/test" \
        --weights "${WEIGHTS:-package}" ${MODEL:+--model "$MODEL"} ${VIDEOS:+--videos "$VIDEOS"} ${RGBD:+--rgbd "$RGBD"} \
        --jobs "$1" --minutes "$(minutes "$2")" >> "$work/logs/sweep.log" 2>&1
}
learn_filter() {
    local name=$1
    shift
    nice -n 3 "$python" -m steadydepth train-filter -c configs/temporal_filter.yaml "data=$work/filter_world" \
        device=cuda workers=2 batch=8 sequences=100000 "minutes=$(minutes 545)" log_every=50 \
        "out=$work/filter/$name.safetensors" "$@" > "$work/logs/filter_$name.log" 2>&1
}

ready base "$(left 352)" "$(minutes 276)" &
base=$!
make_world "$work/train" --clips 120 --frames 8 --seed 0
make_world "$work/test" --clips 24 --frames 12 --seed 100000
make_world "$work/filter_world" --clips 50 --frames 32 --seed 5000
make_world "$work/filter_world" --clips 100 --frames 32 --seed 5000 --shake --blur --deform --compress 26
(sweep 3 330; sweep "${JOBS:-7}" 574) &
wait "$base"
learn_filter a contrast_weight=2 &
learn_filter b contrast_weight=5 &
learn_filter c contrast_weight=2 relative_weight=6 &
ready second "$(left 568)" "$(minutes 556)"
while [ "$(left 580)" -gt 0 ] && [ -n "$(jobs -r)" ]; do sleep 1; done
for name in base steady plain; do
    cp "$work/ready/$name/model.fp16.safetensors" "$out/$name.safetensors"
    mkdir -p "$work/kept/$name" && cp "$work/ready/$name"/{metrics.jsonl,config.yaml,config.json} "$work/kept/$name/"
done
cp -r "$work/logs" "$work/filter" "$work/sweep/results.jsonl" "$work/kept/"
tar -czf "$out/kept.tar.gz" -C "$work/kept" .
tar -czf "$out/models.tar.gz" -C "$work/sweep" models
tail -n 2 "$work"/logs/*.log
