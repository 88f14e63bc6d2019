// Where frames come from: a camera, a video file, or image files, which are shown one after another.

const NEXT_FRAME = "requestVideoFrameCallback";

// A camera, or a video file that plays in a loop. Calls onFrame(video element, time) for each new frame.
export class VideoSource {
  static async ofCamera(onFrame) {
    if (!navigator.mediaDevices) throw new Error("a camera needs a page over TLS, or a server on this machine");
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: { ideal: "environment" } };
    return new VideoSource(await navigator.mediaDevices.getUserMedia({ video, audio: false }), onFrame);
  }

  constructor(from, onFrame) {
    this.element = document.createElement("video");
    Object.assign(this.element, { muted: true, playsInline: true, loop: true });
    this.isOver = false;
    if (from instanceof MediaStream) this.element.srcObject = from;
    else this.element.src = URL.createObjectURL(from);
    const next = () => {
      if (this.isOver) return;
      if (this.element.videoWidth && this.element.readyState >= 2) onFrame(this.element, performance.now());
      this.wait(next);
    };
    this.wait(next);
  }

  wait(next) {
    if (NEXT_FRAME in this.element) this.element[NEXT_FRAME](next);
    else requestAnimationFrame(next);
  }

  start() {
    return new Promise((resolve, reject) => {
      this.element.onerror = () => reject(new Error("this browser cannot play that video"));
      this.element.play().then(resolve, reject);
    });
  }

  close() {
    this.isOver = true;
    this.element.pause();
    for (const track of this.element.srcObject?.getTracks() ?? []) track.stop();
    if (this.element.src) URL.revokeObjectURL(this.element.src);
  }
}

// Image files in the order of their names, none left out: onFrame is waited for. Those that cannot be read go to onFault.
export class ImageSource {
  constructor(files, { onFrame, onFault, onEnd }) {
    const order = new Intl.Collator("en", { numeric: true });
    this.files = [...files].sort((one, other) => order.compare(one.name, other.name));
    Object.assign(this, { onFrame, onFault, onEnd, isOver: false });
  }

  // Returns at once; the images follow.
  async start() {
    this.run();
  }

  async run() {
    for (const file of this.files) {
      if (this.isOver) return;
      let image;
      try {
        image = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
      } catch {
        this.onFault(`${file.name}: no image that this browser reads`);
        continue;
      }
      await this.onFrame(image, performance.now());
      image.close();
    }
    if (!this.isOver) this.onEnd();
  }

  close() {
    this.isOver = true;
  }
}
