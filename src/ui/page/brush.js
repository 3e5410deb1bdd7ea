// A mask under a brush: what is white, how it looks over its photo, and what was done to it.

/** Steps that can be taken back. */
const REMEMBERED = 60;

/** Colours of what is not the subject, by the way of looking at it. */
export const LOOKS = { colour: "rgba(225, 18, 140, 0.7)", dark: "rgba(8, 10, 16, 0.78)", mask: "#000" };

export class Brush {
  /** `photo` is an image; the mask has its size, or a smaller one. */
  constructor(canvas, photo, width, height) {
    this.canvas = canvas;
    this.photo = photo;
    this.mask = new OffscreenCanvas(width, height);
    this.shade = new OffscreenCanvas(width, height);
    this.ink = this.mask.getContext("2d", { willReadFrequently: true });
    this.largest = Math.max(8, Math.round(Math.min(width, height) / 2));
    this.size = Math.max(6, Math.round(Math.min(width, height) / 14));
    this.erases = false;
    this.look = "colour";
    this.zoom = 1;
    this.x = 0; // what of the mask is in the canvas's middle, relative to the mask's
    this.y = 0;
    this.cursor = null;
    this.past = [];
    this.future = [];
    this.taken = new Uint8Array(width * height); // the mask that was there before anything was painted
    this.changed = () => {};
  }

  /** Pixels of the canvas for one of the mask. */
  get scale() {
    const { canvas, mask } = this;
    return this.zoom * Math.min(canvas.width / mask.width, canvas.height / mask.height);
  }

  /** Where a place of the canvas is in the mask. */
  inMask(x, y) {
    const { canvas, mask, scale } = this;
    return [(x - canvas.width / 2) / scale + mask.width / 2 + this.x, (y - canvas.height / 2) / scale + mask.height / 2 + this.y];
  }

  /** Makes the brush so many times larger. */
  resize(factor) {
    this.size = Math.min(this.largest, Math.max(2, this.size * factor));
    this.changed();
    this.show();
  }

  /** Zooms around a place of the canvas. */
  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const before = this.inMask(x, y);
    this.zoom = Math.min(16, Math.max(1, this.zoom * factor));
    const after = this.inMask(x, y);
    this.move(before[0] - after[0], before[1] - after[1]);
  }

  /** Moves what is seen, by pixels of the mask. */
  move(dx, dy) {
    const room = (side) => (side / 2) * (1 - 1 / this.zoom);
    const within = (value, most) => Math.min(most, Math.max(-most, value));
    this.x = within(this.x + dx, room(this.mask.width));
    this.y = within(this.y + dy, room(this.mask.height));
    this.show();
  }

  /** Paints a line from one place of the mask to another. */
  stroke([x0, y0], [x1, y1], size = this.size) {
    const { ink } = this;
    ink.globalCompositeOperation = this.erases ? "destination-out" : "source-over";
    ink.strokeStyle = "#fff";
    ink.lineWidth = size;
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    ink.moveTo(x0, y0);
    ink.lineTo(x1 + 1e-3, y1);
    ink.stroke();
    this.show();
  }

  /** What the mask is now: a byte for each pixel. */
  values() {
    const { width, height } = this.mask;
    const pixels = this.ink.getImageData(0, 0, width, height).data;
    return Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i + 3]);
  }

  setValues(values) {
    const { width, height } = this.mask;
    const image = new ImageData(width, height);
    values.forEach((value, i) => image.data.set([255, 255, 255, value], 4 * i));
    this.ink.putImageData(image, 0, 0);
    this.show();
  }

  /** Remembers the mask as it is before something is done to it. */
  remember() {
    this.past.push(this.values());
    if (this.past.length > REMEMBERED) this.past.shift();
    this.future = [];
    this.changed();
  }

  takeBack(from = this.past, to = this.future) {
    if (!from.length) return;
    to.push(this.values());
    this.setValues(from.pop());
    this.changed();
  }

  redo() {
    this.takeBack(this.future, this.past);
  }

  invert() {
    this.remember();
    this.setValues(this.values().map((value) => 255 - value));
  }

  clear() {
    this.remember();
    this.setValues(new Uint8Array(this.mask.width * this.mask.height));
  }

  /** Takes over a picture that is white where the subject is. */
  take(picture) {
    const { width, height } = this.mask;
    const reading = new OffscreenCanvas(width, height).getContext("2d");
    reading.drawImage(picture, 0, 0, width, height);
    const pixels = reading.getImageData(0, 0, width, height).data;
    this.taken = Uint8Array.from({ length: width * height }, (_, i) => (pixels[4 * i] >= 128 ? 255 : 0));
    this.setValues(this.taken);
  }

  /** Whether the mask is another than what was taken over. */
  get isPainted() {
    return this.values().some((value, i) => value !== this.taken[i]);
  }

  get isEmpty() {
    return !this.values().some((value) => value >= 128);
  }

  /** The mask as a PNG: white where the subject is. */
  png() {
    const { width, height } = this.mask;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.drawImage(this.mask, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  /** Draws photo, shade and cursor, at the next chance. */
  show() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas, mask, shade, scale } = this;
    const over = shade.getContext("2d");
    over.globalCompositeOperation = "copy";
    over.fillStyle = LOOKS[this.look];
    over.fillRect(0, 0, shade.width, shade.height);
    over.globalCompositeOperation = "destination-out";
    over.drawImage(mask, 0, 0);
    const view = canvas.getContext("2d");
    view.setTransform(1, 0, 0, 1, 0, 0);
    view.clearRect(0, 0, canvas.width, canvas.height);
    view.translate(canvas.width / 2, canvas.height / 2);
    view.scale(scale, scale);
    view.translate(-mask.width / 2 - this.x, -mask.height / 2 - this.y);
    if (this.look === "mask") {
      view.fillStyle = "#fff";
      view.fillRect(0, 0, mask.width, mask.height);
    } else {
      view.drawImage(this.photo, 0, 0, mask.width, mask.height);
    }
    view.drawImage(shade, 0, 0);
    if (!this.cursor) return;
    view.beginPath();
    view.arc(...this.cursor, this.size / 2, 0, 7);
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      view.strokeStyle = colour;
      view.lineWidth = width / scale;
      view.stroke();
    }
  }
}
