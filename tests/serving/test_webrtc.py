"""A camera over WebRTC: a real peer on this machine sends video, depth comes back over the data channel."""

import asyncio
import fractions

import httpx
import numpy as np
import pytest
from known_depth import Average, film
from served import serving
from waiting import wait_until

from steadydepth.errors import InputError
from steadydepth.serving.messages import decode_depth, unpack
from steadydepth.serving.settings import Limits
from steadydepth.serving.tokens import new_token

# Of the packages that it stands on.
pytestmark = pytest.mark.filterwarnings("ignore")
aiortc = pytest.importorskip("aiortc")


class Camera(aiortc.VideoStreamTrack):
    """One grey image, 30 times a second."""

    def __init__(self, image):
        super().__init__()
        self._image, self._n = image, 0

    async def recv(self):
        from av import VideoFrame

        await asyncio.sleep(1 / 30)
        frame = VideoFrame.from_ndarray(self._image, format="rgb24")
        frame.pts, frame.time_base = 3000 * self._n, fractions.Fraction(1, 90000)
        self._n += 1
        return frame


async def watch(url, image, n_answers):
    """Send the image until so many answers are there; the answers, and the status of ending it twice."""
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    answers, parts, is_done = [], [], asyncio.Event()
    channel = connection.createDataChannel("depth")

    @channel.on("message")
    def take(part):
        number, count = (int.from_bytes(part[at : at + 2], "little") for at in (0, 2))
        assert number == len(parts)
        parts.append(part[4:])
        if len(parts) == count:
            answers.append(unpack(b"".join(parts)))
            parts.clear()
            if len(answers) == n_answers:
                is_done.set()

    connection.addTrack(Camera(image))
    await connection.setLocalDescription(await connection.createOffer())
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        kind = {"content-type": "application/sdp"}
        made = await http.post("/v1/webrtc?format=float16", content=connection.localDescription.sdp, headers=kind)
        assert made.status_code == 201, made.text
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(made.text, "answer"))
        async with asyncio.timeout(30):
            await is_done.wait()
        place = made.headers["location"]
        ended = [(await http.delete(place)).status_code for _ in range(3)]
    await connection.close()
    return answers[:n_answers], ended


def test_depth_of_a_camera_comes_over_the_data_channel():
    import cv2

    smooth = cv2.resize(film(1)[0][::8, ::8], (160, 120), interpolation=cv2.INTER_CUBIC)
    image = np.repeat(smooth[..., :1], 3, axis=2)  # grey and smooth: what the codec of the camera keeps
    with serving(Average(), webrtc=True) as server:
        answers, ended = asyncio.run(watch(server.url, image, 12))
        assert ended == [204, 404, 404]
        wait_until(lambda: not server.app.state.figures.streams)
        batcher = server.app.state.models.current.batcher
        assert batcher._n_open == 0
    numbers = [header["id"] for header, _ in answers]
    assert numbers == sorted(set(numbers))
    assert [header["start"] for header, _ in answers] == [True] + [False] * 11
    header, payload = answers[-1]
    depth = decode_depth(header, payload)
    assert depth.shape == (120, 160)
    assert np.abs(depth - 1 - image[..., 0]).mean() < 8


class Fussy(Average):
    """Refuses the first two frames."""

    n_calls = 0

    def forward(self, frames, state=None):
        self.n_calls += 1
        if self.n_calls <= 2:
            raise InputError("not this one")
        return super().forward(frames, state)


def test_frames_that_are_refused_are_counted_and_the_next_are_answered():
    with serving(Fussy(), webrtc=True) as server:
        answers, _ = asyncio.run(watch(server.url, np.zeros((48, 64, 3), np.uint8), 2))
        assert len(answers) == 2
        assert server.app.state.figures.n_refused == 2


def test_a_camera_ends_with_its_token_and_those_of_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("steadydepth.serving.access._LOOK_EVERY_S", 0.1)
    path, image = tmp_path / "tokens.json", np.zeros((48, 64, 3), np.uint8)
    tokens = {name: new_token(path, name) for name in ("me", "you")}

    async def open_camera(http, token):
        """A connection that is answered, and how many messages have come over it."""
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        taken, channel = [], connection.createDataChannel("depth")
        channel.on("message", taken.append)
        connection.addTrack(Camera(image))
        await connection.setLocalDescription(await connection.createOffer())
        head = {"content-type": "application/sdp", "authorization": f"Bearer {token}"}
        made = await http.post("/v1/webrtc", content=connection.localDescription.sdp, headers=head)
        assert made.status_code == 201, made.text
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(made.text, "answer"))
        return connection, taken

    async def until(is_so):
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.02)

    async def watch_both(server):
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            (mine, mine_taken), (yours, yours_taken) = [await open_camera(http, token) for token in tokens.values()]
        await until(lambda: mine_taken and yours_taken)
        peers, figures = server.app.state.peers, server.app.state.figures
        assert sorted(owner for owner, *_ in peers.values()) == ["me", "you"]
        new_token(path, "me")  # in place of the one before
        await until(lambda: mine.connectionState == "closed")
        await until(lambda: len(figures.streams) == 1)
        await until(lambda: [owner for owner, *_ in peers.values()] == ["you"])  # after its stream
        count, n_mine = len(yours_taken), len(mine_taken)
        await until(lambda: len(yours_taken) > count + 2)
        assert len(mine_taken) == n_mine
        for connection in (mine, yours):
            await connection.close()

    with serving(Average(), webrtc=True, tokens=path) as server:
        asyncio.run(watch_both(server))


def test_tracks_that_nobody_reads_are_not_received():
    async def offer(url):
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        connection.createDataChannel("depth")
        for track in (aiortc.AudioStreamTrack(), Camera(np.zeros((48, 64, 3), np.uint8)), aiortc.VideoStreamTrack()):
            connection.addTrack(track)
        await connection.setLocalDescription(await connection.createOffer())
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            kind = {"content-type": "application/sdp"}
            made = await http.post("/v1/webrtc", content=connection.localDescription.sdp, headers=kind)
            await connection.setRemoteDescription(aiortc.RTCSessionDescription(made.text, "answer"))
            await http.delete(made.headers["location"])
        taken = [each.currentDirection for each in connection.getTransceivers()]
        await connection.close()
        return taken

    with serving(Average(), webrtc=True) as server:
        assert sorted(asyncio.run(offer(server.url))) == ["inactive", "inactive", "sendonly"]


def test_what_is_no_offer_is_refused_and_leaves_nothing():
    with serving(Average(), webrtc=True, limits=Limits(requests_s=1e4)) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            for content, kind, status in (
                (b"", "application/sdp", 422),
                (b"v=0\r\n", "application/sdp", 422),
                (b"\xff\xfe", "application/sdp", 422),
                (b"x" * 70_000, "application/sdp", 415),
                (b"v=0\r\n", "text/plain", 415),
            ):
                answer = http.post("/v1/webrtc", content=content, headers={"content-type": kind})
                assert answer.status_code == status, content[:10]
            assert http.delete("/v1/webrtc/nothing").status_code == 404
        assert not server.app.state.figures.streams
        assert not server.app.state.peers
    with serving(Average()) as server:
        assert httpx.post(f"{server.url}/v1/webrtc", trust_env=False).status_code == 404
