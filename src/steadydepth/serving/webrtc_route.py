"""`POST /v1/webrtc`: a camera over WebRTC in, by WHIP (RFC 9725), and depth over its data channel; needs `webrtc`."""

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import Annotated, Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from fastapi import APIRouter, HTTPException, Query, Request, Response

from steadydepth.errors import InputError
from steadydepth.serving.access import requires
from steadydepth.serving.answers import Answers, FilterName, Format, reserved
from steadydepth.serving.settings import Settings
from steadydepth.serving.terminals import Terminal
from steadydepth.serving.tokens import Identity

LOG = logging.getLogger(__name__)
router = APIRouter()
_MOST_OFFER_BYTES = 64 << 10
_PART_BYTES = 16 << 10  # every browser takes messages of this size
_MOST_WAITING_BYTES = 1 << 20  # not yet taken by the client: then frames are left out
_SDP: dict[str, Any] = {"application/sdp": {"schema": {"type": "string"}}}


@router.post(
    "/v1/webrtc",
    status_code=201,
    response_class=Response,
    summary="A camera over WebRTC",
    responses={201: {"description": "The answer; DELETE its Location to end", "content": _SDP}},
    openapi_extra={"requestBody": {"required": True, "content": _SDP}},
)
async def offer(
    request: Request,
    identity: Annotated[Identity, requires("predict")],
    format: Annotated[Format, Query()] = "float16",
    filter: FilterName | None = None,
) -> Response:
    """Take an offer with a video track to send and an ordered data channel; depth of the newest frame comes over it.

    Args:
        request: its body is the offer, in SDP.
        identity: who asks.
        format: of the depth that goes back.
        filter: in place of the server's own.
    """
    body = await request.body()
    if len(body) > _MOST_OFFER_BYTES or request.headers.get("content-type", "").split(";")[0] != "application/sdp":
        raise HTTPException(415, "an offer is application/sdp, of at most 64 KiB")
    state = request.app.state
    settings: Settings = state.settings
    chosen = await asyncio.to_thread(state.filters.choose, filter, identity)
    place = ExitStack()
    name = place.enter_context(reserved(state, identity, request))
    peer = _Peer(request, name, Terminal(state.models, filter=chosen), format)
    try:
        async with asyncio.timeout(settings.limits.header_s):
            answer = await peer.answer(body.decode())
    except Exception as error:  # of a parser that says what is wrong with text in many ways
        LOG.info("an offer is refused: %r", error)
        await peer.connection.close()
        place.close()
        raise HTTPException(422, "no offer of a video track over WebRTC") from None
    task = asyncio.create_task(peer.run(place))
    # Held, or nobody would.
    state.peers[name] = (identity.name, peer, task)
    task.add_done_callback(lambda _: state.peers.pop(name, None))
    return Response(answer, 201, {"Location": f"/v1/webrtc/{name}"}, "application/sdp")


@router.delete(
    "/v1/webrtc/{name}",
    dependencies=[requires("predict")],
    status_code=204,
    summary="End a camera over WebRTC",
    response_class=Response,
)
async def end(request: Request, name: str) -> Response:
    """End what an offer began; its own token alone can, or one of `admin`."""
    identity: Identity = request.state.identity
    owner, peer, _ = request.app.state.peers.get(name, (None, None, None))
    if peer is None or peer.is_over.is_set() or (owner != identity.name and not identity.may("admin")):
        raise HTTPException(404, "no such stream")
    # Not cancelled: what gives its place back is not to be cut short by whoever asks twice.
    peer.is_over.set()
    return Response(status_code=204)


class _Peer:
    """One camera: its newest frame waits, and is answered over the data channel."""

    def __init__(self, request: Request, name: str, terminal: Terminal, format: Format) -> None:
        state, self._request = request.app.state, request
        # No server of others is asked for our address.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.terminal, self.limits, self._pool = terminal, state.settings.limits, state.pool
        self.answers = Answers(state, name, format)
        self._newest: tuple[int, Any, float] | None = None
        self._changed, self.is_over = asyncio.Event(), asyncio.Event()
        self._channel: RTCDataChannel | None = None
        self._track: Any = None
        self.connection.on("datachannel", self._open_channel)
        self.connection.on("track", self._open_track)
        self.connection.on("connectionstatechange", self._watch)

    async def answer(self, sdp: str) -> str:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        if self._track is None:
            raise InputError("no video track")
        for transceiver in self.connection.getTransceivers():
            if transceiver.receiver.track is not self._track:
                transceiver.direction = "inactive"  # nobody would read it, and it would pile up
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return self.connection.localDescription.sdp

    async def run(self, place: ExitStack) -> None:
        """Until the client goes, a limit is reached or it is cancelled; then `place` is given back."""
        revoked = self._request.app.state.access.revoked(self._request, "predict")
        tasks = [asyncio.create_task(work) for work in (self._read(), self._answer_all(), self.is_over.wait(), revoked)]
        try:
            await asyncio.wait(tasks, timeout=self.limits.session_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for error in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(error, Exception) and not isinstance(error, MediaStreamError | TimeoutError):
                    LOG.error("error in a stream over WebRTC", exc_info=error)
            await self.connection.close()
            await asyncio.to_thread(self.terminal.close)
            place.close()

    def _open_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel

    def _open_track(self, track: Any) -> None:
        if track.kind == "video" and self._track is None:
            self._track = track

    def _watch(self) -> None:
        if self.connection.connectionState in ("failed", "closed"):
            self.is_over.set()

    async def _read(self) -> None:
        number = 0
        while True:
            async with asyncio.timeout(self.limits.idle_s):
                frame = await self._track.recv()
            if self._newest is not None:
                self.answers.skip()
            self._newest = number, frame, time.monotonic()
            self.answers.own.is_waiting = True
            self._changed.set()
            number += 1

    async def _answer_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            taken, self._newest = self._newest, None
            self.answers.own.is_waiting = False
            channel = self._channel
            assert taken is not None
            if channel is None or channel.readyState != "open" or channel.bufferedAmount > _MOST_WAITING_BYTES:
                self.answers.skip()
                continue
            try:
                # Shielded: a thread runs to its end, and the terminal is closed after it.
                message = await asyncio.shield(loop.run_in_executor(self._pool, self._compute, *taken))
            except InputError as error:
                LOG.info("a frame over WebRTC is refused: %s", error)
                self.answers.refuse()
                continue
            self.answers.count(taken[2])
            for part in parts_of(message):
                channel.send(part)

    def _compute(self, number: int, frame: Any, arrived: float) -> bytes:
        begun = time.monotonic()
        if frame.width * frame.height > self.limits.pixels:
            raise InputError(f"the frame is {frame.width} x {frame.height}: too large")
        image = frame.to_ndarray(format="rgb24")
        answer = self.terminal.step(image, time_s=frame.time)
        return self.answers.message(answer, number, arrived=arrived, begun=begun)


def parts_of(message: bytes) -> list[bytes]:
    """A message in parts that fit a data channel: number of the part and number of parts, 2 bytes each, then bytes."""
    count = -(-len(message) // _PART_BYTES)
    return [
        number.to_bytes(2, "little") + count.to_bytes(2, "little") + message[number * _PART_BYTES :][:_PART_BYTES]
        for number in range(count)
    ]
