"""Read damaged files with every reader; accept only InputError: no hang, bounded memory, nothing written elsewhere.

    python benchmarks/fuzz_readers.py --number 10000 --seed 0 [--kinds png npz mp4] [--keep FOLDER]

A small file of each kind is written once. Each input is one of them with bytes changed, removed, doubled, swapped or
set to extremes, and is read by the reader of that kind. A separate process reads many inputs one after another. An
input that ends the process, by a signal, by time or by memory, is a finding too. Exit status 1 if there is a finding.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

PATIENCE_S, MOST_BYTES, BATCH = 10.0, 2**30, 500
START_S = 180.0  # to import everything on a busy machine


def _images(folder: Path) -> None:
    import cv2
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "webp", "bmp", "tif", "avif"):
        Image.fromarray(smooth).save(folder / f"colour.{suffix}", exif=exif)
    cv2.imwrite(str(folder / "depth.png"), (smooth[..., 0].astype(np.uint16) * 20))
    for name in ("depth.tif", "depth.pgm"):
        cv2.imwrite(str(folder / name), (smooth[..., 0].astype(np.uint16) * 20))
    cv2.imwrite(str(folder / "flow.png"), smooth.astype(np.uint16) + 32700)
    (folder / "frame.ppm").write_bytes(b"P6\n40 56\n255\n" + smooth.tobytes())


def _numbers(folder: Path) -> None:
    from steadydepth.files.exr import write_exr
    from steadydepth.files.packed_images import encode_image
    from steadydepth.files.predictions import write_predictions

    depth = np.linspace(1, 9, 40 * 56, dtype=np.float32).reshape(40, 56)
    np.save(folder / "depth.npy", depth)
    np.savez_compressed(folder / "depth.npz", depth=depth)
    (folder / "depth.pfm").write_bytes(b"Pf\n56 40\n-1.0\n" + depth.tobytes())
    (folder / "depth.dpt").write_bytes(
        np.float32(202021.25).tobytes() + np.array([56, 40], "i4").tobytes() + depth.tobytes()
    )
    write_exr(folder / "depth.exr", depth)
    write_predictions(folder, "prediction", np.stack([depth, depth]), "affine")
    (folder / "packed.zst").write_bytes(encode_image((1000 * depth).astype(np.uint16)))
    import h5py
    import scipy.io

    with h5py.File(folder / "depth.h5", "w") as file:
        file.create_dataset("depth", data=depth, compression="gzip")
    scipy.io.savemat(folder / "depth.mat", {"depth": depth}, do_compression=True)


def _videos(folder: Path) -> None:
    import av

    from steadydepth.files.video_write import write_depth_video

    frames = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    for name, codec in (
        ("h264.mp4", "libx264"),
        ("h264.mkv", "libx264"),
        ("mpeg4.avi", "mpeg4"),
        ("h264.mts", "libx264"),
        ("mpeg2.mpg", "mpeg2video"),
        ("vp9.webm", "libvpx-vp9"),
    ):
        with av.open(str(folder / name), "w", format="mpegts" if name.endswith(".mts") else None) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    write_depth_video(folder / "depth.mkv", iter(frames[..., 0].astype(np.uint16) * 200), 10.0)


def _texts(folder: Path) -> None:
    from steadydepth.types import Clip  # noqa: F401

    meta = {
        "fps": 30.0,
        "depth_scale_m": 0.001,
        "K": [[40, 0, 20], [0, 40, 15], [0, 0, 1]],
        "cam_to_world": [np.eye(4).tolist()],
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    (folder / "config.yaml").write_text(
        "data: {root: x, labels: teacher, motion: none}\nmodel: {init: 'a.b:c', claims: metric}\noptim: {steps: 3e2}\n"
        "run: {folder: y}\n",
        encoding="utf-8",
    )
    (folder / "list.csv").write_text(
        "image,depth,scale,sequence\na.png,b.png,0.001,walk\nc.png,d.png,0.001,walk\n", encoding="utf-8"
    )
    (folder / "list.jsonl").write_text('{"image": "a.png", "depth": "b.npy", "fps": 10}\n' * 3, encoding="utf-8")
    (folder / "rgb.txt").write_text(
        "# time file\n" + "".join(f"{1 + i / 30:.6f} rgb/{i}.png\n" for i in range(5)), encoding="utf-8"
    )


def _shards(folder: Path) -> None:
    """index.json, members.npy and a tar file of one small sequence, in one tar of their own to be damaged together."""
    from steadydepth.data.shards.write import pack
    from steadydepth.files.sequence_writer import write_sequence
    from steadydepth.types import Clip

    with tempfile.TemporaryDirectory() as place:
        frames = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
        clip = Clip("a", frames, 10.0, depth=np.full((3, 24, 32), 2, np.float32))
        write_sequence(Path(place) / "data", clip, depth_scale_m=0.001, source=None, licence=None)
        pack(Path(place) / "data", Path(place) / "shards")
        with tarfile.open(folder / "shards.pack", "w") as tar:
            for path in sorted((Path(place) / "shards").iterdir()):
                tar.add(path, path.name)


def _recordings(folder: Path) -> None:
    """Of a telephone and of a robot: one file each."""
    import zipfile

    import cv2
    import lzfse
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    depth = np.full((24, 32), 2, "<f4")
    metadata = {"w": 32, "h": 24, "dw": 32, "dh": 24, "K": [30, 0, 0, 0, 30, 0, 16, 12, 1], "fps": 30}
    with zipfile.ZipFile(folder / "walk.r3d", "w") as archive:
        archive.writestr("metadata", json.dumps(metadata | {"poses": [[0, 0, 0, 1, 0, 0, 0]] * 2}))
        for number in range(2):
            archive.writestr(f"rgbd/{number}.jpg", cv2.imencode(".jpg", image)[1].tobytes())
            archive.writestr(f"rgbd/{number}.depth", lzfse.compress(depth.tobytes()))
            archive.writestr(f"rgbd/{number}.conf", lzfse.compress(np.full((24, 32), 2, np.uint8).tobytes()))
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = "sensor_msgs/msg/Image"
    bag = Writer(folder / "walk.bag")
    bag.set_compression(Writer.CompressionFormat.LZ4)
    with bag:
        for topic, encoding, pixels in (("/color", "rgb8", image), ("/aligned_depth", "32FC1", depth)):
            connection = bag.add_connection(topic, kind, typestore=store)
            for number in range(3):
                stamp = store.types["builtin_interfaces/msg/Time"](sec=1 + number, nanosec=0)
                header = store.types["std_msgs/msg/Header"](seq=number, stamp=stamp, frame_id="camera")
                data = pixels.view(np.uint8).reshape(24, -1)
                message = store.types[kind](
                    header=header, height=24, width=32, encoding=encoding, is_bigendian=0, step=data.shape[1],
                    data=data.ravel(),
                )  # fmt: skip
                bag.write(connection, (1 + number) * 10**9, store.serialize_ros1(message, kind))


def write_seeds(folder: Path) -> None:
    for write in (_images, _numbers, _videos, _texts, _shards, _recordings):
        write(folder)


def read(path: Path, kind: str) -> None:
    """What reads files of that kind."""
    from itertools import islice

    from steadydepth.config_files import load_compare_config, load_config
    from steadydepth.data.sequence_meta import misspelt_keys, read_meta
    from steadydepth.files import depth_formats, images, stored_depth, video_read
    from steadydepth.layouts import pairs, record3d, rosbag, tum
    from steadydepth.layouts.recording import Recording

    if kind.startswith("colour"):
        images.read_colour(path)
    elif kind == "flow.png":
        images.read_flow(path)
    elif kind == "frame.ppm":
        images.read_pnm(path)
    elif kind == "packed.zst":
        images.read_depth_codes(path)
    elif kind == "prediction.npz":
        stored_depth.read_predictions(path.parent, path.stem)
        sum(1 for _ in stored_depth.open_predictions(path.parent, path.stem).read())
    elif kind == "depth.mkv":
        sum(1 for _ in video_read.read_depth_video(path))
    elif path.suffix in video_read.VIDEO_SUFFIXES:
        video_read.probe_video(path)
        sum(1 for _ in islice(video_read.read_video(path), 200))
        sum(1 for _ in video_read.read_video(path, 5, 7))
    elif kind == "meta.json":
        if read_meta(path)[0] is not None:
            misspelt_keys(path)
    elif kind == "config.yaml":
        load_config(path)
        load_compare_config(path)
    elif kind.startswith("list"):
        sum(1 for _ in pairs.find_recordings(path, None))
    elif kind == "rgb.txt":
        tum._stamped(path)
    elif kind == "shards.pack":
        _read_shards(path)
    elif path.suffix in (".r3d", ".bag"):
        for found in (record3d if path.suffix == ".r3d" else rosbag).find_recordings(path, None):
            for number in range(found.n_frames if isinstance(found, Recording) else 0):
                found.read(number)
    else:
        depth_formats.read_numbers(path)


def _read_shards(path: Path) -> None:
    from steadydepth.data.sequence_folder import open_sequence
    from steadydepth.data.sequence_listing import find_sequences

    place = path.with_suffix("")
    shutil.rmtree(place, ignore_errors=True)
    try:
        with tarfile.open(path) as tar:  # ours, for the test; the shards inside are what is read
            for member in tar:
                held = tar.extractfile(member)
                if held is not None and member.name in ("index.json", "members.npy", "00000.tar"):
                    place.mkdir(exist_ok=True)
                    (place / member.name).write_bytes(held.read())
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return
    if place.is_dir():
        for sequence in find_sequences(place):
            open_sequence(sequence).read()


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """One to four changes, more often near the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        if not changed:
            break
        reach = len(changed) if generator.random() < 0.5 else min(len(changed), 128)
        at, n = int(generator.integers(reach)), int(generator.integers(1, 17))
        match int(generator.integers(7)):
            case 0:
                changed[at] ^= 1 << int(generator.integers(8))
            case 1:
                changed[at : at + n] = generator.bytes(n)
            case 2:
                del changed[at : at + n * int(generator.integers(1, 40))]
            case 3:
                changed[at:at] = changed[at : at + n] * int(generator.integers(1, 20))
            case 4:
                changed[at : at + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\1\0"][
                    int(generator.integers(4))
                ]
            case 5:
                del changed[at:]
            case _:
                other = int(generator.integers(len(changed)))
                changed[at : at + n], changed[other : other + n] = changed[other : other + n], changed[at : at + n]
    return bytes(changed)


def _work(seeds: Path, scratch: Path, numbers: list[int], seed: int, kinds: list[str], progress) -> None:
    """Read inputs one after another; before each, its number is sent, and after each what came of it."""
    import logging

    from steadydepth.errors import InputError

    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what codecs print
    os.chdir(scratch)
    for kind in kinds:  # what is imported and set up for a kind costs no damaged input its time and memory
        path = scratch / kind
        shutil.copyfile(seeds / kind, path)
        with contextlib.suppress(InputError):
            read(path, kind)
        path.unlink()
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in numbers:
        kind = kinds[number % len(kinds)]
        data = damage((seeds / kind).read_bytes(), np.random.default_rng((seed, number)))
        path = scratch / (f"prediction{number}.npz" if kind == "prediction.npz" else f"{number}{Path(kind).suffix}")
        path.write_bytes(data)
        progress.send((number, kind, "begun"))
        try:
            read(path, kind)
            outcome = "read"
        except InputError as error:
            outcome = "refused" if len(str(error)) < 5000 else "refused at length"
        except BaseException:
            outcome = "".join(traceback.format_exc().splitlines(keepends=True)[-6:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak - base > MOST_BYTES:
            outcome = f"took {(peak - base) / 2**20:.0f} MiB"
        progress.send((number, kind, outcome))
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def run(number: int, seed: int, kinds: list[str], seeds: Path, scratch: Path, keep: Path | None, first: int) -> Counter:
    context = multiprocessing.get_context("spawn")
    found: Counter = Counter()
    todo = list(range(first, first + number))
    while todo:
        batch, receiver_sender = todo[:BATCH], context.Pipe(duplex=False)
        receiver, sender = receiver_sender
        process = context.Process(target=_work, args=(seeds, scratch, batch, seed, kinds, sender))
        process.start()
        sender.close()
        current, begun, is_begun = None, time.monotonic(), False
        while True:
            wait = PATIENCE_S if is_begun else START_S
            if receiver.poll(max(0.0, begun + wait - time.monotonic())):
                try:
                    current, kind, outcome = receiver.recv()
                except EOFError:
                    break
                begun, is_begun = time.monotonic(), outcome == "begun"
                if not is_begun:
                    todo.remove(current)
                    found[outcome if outcome in ("read", "refused") else "finding"] += 1
                    if outcome not in ("read", "refused"):
                        _report(current, kind, outcome, seed, seeds, keep)
            else:
                process.kill()
                outcome = f"no answer for {wait:g} s"
                break
        process.join()
        if is_begun and current in todo:  # it ended in the middle of an input
            why = f"no answer for {PATIENCE_S:g} s" if process.exitcode == -9 else f"ended by {process.exitcode}"
            _report(current, kinds[current % len(kinds)], why, seed, seeds, keep)
            found["finding"] += 1
            todo.remove(current)
        elif not is_begun and todo[:1] == batch[:1]:
            raise RuntimeError("the reading process does not start")
    return found


def _report(number: int, kind: str, what: str, seed: int, seeds: Path, keep: Path | None) -> None:
    print(f"FINDING {number} {kind}: {what.strip()}", flush=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        data = damage((seeds / kind).read_bytes(), np.random.default_rng((seed, number)))
        (keep / f"{number}_{kind}").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="Number of the first input: to go on, or to repeat one.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds", nargs="*", help="Beginnings or endings of the names of what is damaged; all without it."
    )
    parser.add_argument("--keep", type=Path, help="Folder for the inputs that were findings.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        seeds, scratch, outside = (Path(place) / name for name in ("seeds", "scratch", "outside"))
        for folder in (seeds, scratch, outside):
            folder.mkdir()
        write_seeds(seeds)
        kinds = sorted(path.name for path in seeds.iterdir())
        if options.kinds:
            kinds = [kind for kind in kinds if any(kind.startswith(k) or kind.endswith(k) for k in options.kinds)]
        before = {path.name for path in Path(place).iterdir()}
        begun = time.monotonic()
        found = run(options.number, options.seed, kinds, seeds, scratch, options.keep, options.first)
        left = [path.name for path in Path(place).iterdir() if path.name not in before]
        left += [path.name for folder in (scratch, outside) for path in folder.iterdir()]
        print(
            f"{options.number} inputs of {len(kinds)} kinds in {time.monotonic() - begun:.0f} s: {dict(found)}; "
            f"left: {left}"
        )
    sys.exit(1 if found["finding"] or left else 0)


if __name__ == "__main__":
    main()
