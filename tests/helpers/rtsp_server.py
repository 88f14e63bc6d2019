"""A camera on a network, as far as a player asks: RTSP over TCP, MPEG-TS in RTP (RFC 2326, 2250 and 3551).

    python rtsp_server.py FILM.ts

It prints its port. What it sends is FILM, then for rtsp://127.0.0.1:PORT/ends the end of the connection, and for
/stalls nothing more, for a minute.
"""

import socketserver
import struct
import sys
import time
from pathlib import Path

PACKET = 7 * 188  # whole packets of MPEG-TS that fit a datagram
ANSWERS = {
    "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
    "PLAY": "Session: 1\r\n",
}
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=film\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:video\r\n"


class Camera(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while request := self.rfile.readline().decode().split():
            method, address = request[:2]
            said = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                said[name.lower()] = value.strip()
            self.answer(method, said)
            if method == "PLAY":
                self.send()
                if "/stalls" in address:
                    time.sleep(60)
                return

    def answer(self, method: str, said: dict[str, str]) -> None:
        status = "461 Unsupported Transport" if "UDP" in transport(said) else "200 OK"
        body, fields = "", ANSWERS.get(method, "")
        if method == "DESCRIBE":
            body, fields = SDP, f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n"
        self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {said['cseq']}\r\n{fields}\r\n{body}".encode())

    def send(self) -> None:
        film = Path(sys.argv[1]).read_bytes()
        for number, start in enumerate(range(0, len(film), PACKET)):
            payload = film[start : start + PACKET]
            rtp = struct.pack(">BBHII", 0x80, 33, number % 2**16, number * 90, 1) + payload
            self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)


def transport(said: dict[str, str]) -> str:
    """Without a word of TCP it is UDP that is asked for."""
    asked = said.get("transport", "TCP")
    return asked if "TCP" in asked else "UDP"


if __name__ == "__main__":
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()
