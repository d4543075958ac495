// Draws an ECG as paper has it: 25 mm/s, 10 mm/mV, pink millimetre squares, leads one below the other, windows that the
// model could not use shaded. The canvas is only as wide as what is seen and is drawn anew while the sheet scrolls under
// it, so that ten minutes of twelve leads cost no more than ten seconds.

const MM = 96 / 25.4; // CSS pixels of a millimetre, at 100%
const SPEED = 25, GAIN = 10; // mm a second, mm a millivolt
const HEAD = 38, FOOT = 6; // pixels above and below the leads: the time, and why a window was not used
const NAME = 32, MARGIN = 9; // pixels and mm at the left that stay in sight: the lead's name, the calibration pulse
const LEAST = 0.5, MOST = 4, STEP = 1.25; // zoom
const PAPER = "#fffdfc", FINE = "#f9e5e3", THICK = "#efc2be", INK = "#14181c", SOFT = "#57606a", SHADE = "#5b6470";
const FONT = "system-ui, sans-serif";
const KEYS = {
  ArrowLeft: "earlier", ArrowRight: "later", PageUp: "back", PageDown: "on", Home: "first", End: "last",
  "+": "in", "=": "in", "-": "out", 0: "one",
};

export class Strip {
  // told(zoom): called when the zoom changes
  constructor(scroll, sheet, canvas, told) {
    Object.assign(this, { scroll, sheet, canvas, told, zoom: 1, due: false });
    scroll.addEventListener("scroll", () => this.soon());
    scroll.addEventListener("keydown", (event) => this.key(event));
    scroll.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    scroll.addEventListener("pointerdown", (event) => this.drag(event));
    new ResizeObserver(() => this.soon()).observe(scroll);
  }

  // strip: {fs, leads, signals}, millivolts or null; shaded: [{from, to, why}], in seconds
  show({ fs, leads, signals }, shaded) {
    Object.assign(this, { fs, shaded, seconds: signals[0].length / fs, height: 0 });
    this.rows = signals.map((signal, i) => {
      const row = { lead: leads[i], signal, ...extent(signal) };
      row.at = this.height + row.up; // mm from the top to where the lead's median lies: on a thick line
      this.height = row.at + row.down;
      return row;
    });
    // a narrow screen begins with five seconds in sight
    this.zoom = Math.min(1, Math.max(LEAST, (this.scroll.clientWidth - NAME) / ((5 * SPEED + MARGIN) * MM)));
    this.lay();
    this.scroll.scrollLeft = 0;
  }

  get px() { return MM * this.zoom; } // pixels of a millimetre

  get edge() { return NAME + MARGIN * this.px; } // the pixel where time begins

  lay() {
    this.sheet.style.width = `${this.edge + this.seconds * SPEED * this.px}px`;
    this.sheet.style.height = `${Math.ceil(this.height * this.px) + HEAD + FOOT}px`;
    this.told(this.zoom, LEAST, MOST);
    this.soon();
  }

  // x: the pixel of the view whose moment stays where it is
  zoomTo(zoom, x = this.scroll.clientWidth / 2) {
    const at = (this.scroll.scrollLeft + x - this.edge) / this.px;
    this.zoom = Math.min(MOST, Math.max(LEAST, zoom));
    this.lay();
    this.scroll.scrollLeft = at * this.px + this.edge - x;
  }

  do(what) {
    const page = (0.9 * this.scroll.clientWidth) / this.px;
    const mm = { earlier: -SPEED, later: SPEED, back: -page, on: page, first: -1e6, last: 1e6 }[what];
    if (mm) this.scroll.scrollLeft += mm * this.px;
    else this.zoomTo({ in: this.zoom * STEP, out: this.zoom / STEP, one: 1 }[what]);
  }

  key(event) {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.do(KEYS[event.key]);
  }

  wheel(event) {
    if (!event.ctrlKey) return; // else nobody could scroll the page past the strip
    event.preventDefault();
    this.zoomTo(this.zoom * Math.exp(-event.deltaY / 400), event.clientX - this.scroll.getBoundingClientRect().left);
  }

  drag(event) { // a finger scrolls by itself
    if (event.pointerType !== "mouse" || event.button || event.target !== this.canvas) return;
    const done = new AbortController(), { signal } = done;
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.addEventListener("pointermove", (e) => { this.scroll.scrollLeft -= e.movementX; }, { signal });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => done.abort(), { signal });
  }

  soon() {
    if (this.due || !this.rows) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  draw() {
    const ratio = window.devicePixelRatio || 1, pen = this.canvas.getContext("2d");
    this.width = this.scroll.clientWidth;
    this.bottom = Math.ceil(this.height * this.px) + HEAD;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round((this.bottom + FOOT) * ratio);
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.bottom + FOOT}px`;
    pen.scale(ratio, ratio);
    pen.fillStyle = PAPER;
    pen.fillRect(0, 0, this.width, this.bottom + FOOT);
    pen.textBaseline = "middle";
    this.left = this.scroll.scrollLeft - this.edge; // the pixel of the sheet's time axis at the view's edge
    this.grid(pen);
    this.times(pen);
    for (const window of this.shaded) this.shade(pen, window);
    for (const row of this.rows) this.trace(pen, row);
    this.margin(pen);
  }

  x(seconds) { return seconds * SPEED * this.px - this.left; }

  y(mm) { return HEAD + mm * this.px; }

  grid(pen) {
    for (const [every, colour] of [[1, FINE], [5, THICK]]) {
      if (every * this.px < 2) continue; // too fine to be told apart
      pen.beginPath();
      for (let mm = Math.ceil(this.left / this.px / every) * every; mm * this.px - this.left < this.width; mm += every) {
        line(pen, mm * this.px - this.left, HEAD, mm * this.px - this.left, this.bottom);
      }
      for (let mm = 0; mm <= this.height; mm += every) line(pen, 0, this.y(mm), this.width, this.y(mm));
      pen.strokeStyle = colour;
      pen.lineWidth = 1;
      pen.stroke();
    }
  }

  times(pen) {
    const second = SPEED * this.px, step = [1, 2, 5, 10, 30].find((s) => s * second >= 48) ?? 60;
    pen.fillStyle = SOFT;
    pen.font = `11px ${FONT}`;
    pen.textAlign = "center";
    for (let t = Math.max(0, Math.ceil(this.left / second / step) * step); t <= this.seconds; t += step) {
      const half = pen.measureText(clock(t)).width / 2 + 3;
      const x = Math.min(this.x(t), this.width - half);
      if (x >= half && this.x(t) < this.width + half) pen.fillText(clock(t), x, 10);
    }
    pen.textAlign = "left";
  }

  shade(pen, { from, to, why }) {
    const a = Math.max(this.x(from), 0), b = Math.min(this.x(to), this.width);
    if (b <= a) return;
    pen.save();
    pen.beginPath();
    pen.rect(a, HEAD - 18, b - a, this.bottom - HEAD + 18);
    pen.clip();
    pen.fillStyle = `${SHADE}22`;
    pen.fillRect(a, HEAD, b - a, this.bottom - HEAD);
    pen.beginPath(); // hatched: not told by colour alone
    for (let x = this.x(from) % 12 - this.bottom; x < b; x += 12) line(pen, x, this.bottom, x + this.bottom, 0);
    pen.strokeStyle = `${SHADE}24`;
    pen.stroke();
    pen.fillStyle = SHADE;
    pen.fillRect(a, HEAD - 18, b - a, 18);
    pen.fillStyle = "#fff";
    pen.font = `600 12px ${FONT}`;
    pen.fillText(`Not used: ${why}`, Math.max(a, this.edge) + 6, HEAD - 8.5);
    pen.restore();
  }

  trace(pen, { signal, middle, at, up, down }) {
    const second = SPEED * this.px, { fs } = this;
    const first = Math.max(0, Math.floor((this.left / second) * fs));
    const last = Math.min(signal.length - 1, Math.ceil(((this.left + this.width) / second) * fs));
    let lifted = true;
    pen.beginPath();
    for (let i = first; i <= last; i++) {
      const mv = signal[i];
      if (mv !== null) { // what is beyond the lead's own row touches its edge
        const y = this.y(at + Math.min(down, Math.max(-up, (middle - mv) * GAIN)));
        if (lifted) pen.moveTo(this.x(i / fs), y);
        else pen.lineTo(this.x(i / fs), y);
      }
      lifted = mv === null;
    }
    this.ink(pen);
  }

  ink(pen) {
    pen.strokeStyle = INK;
    pen.lineJoin = "round";
    pen.lineWidth = Math.max(1, Math.min(1.8, 0.3 * this.px));
    pen.stroke();
  }

  // each lead's name, and a pulse of 1 mV and 0.2 s
  margin(pen) {
    const { edge } = this;
    pen.fillStyle = PAPER;
    pen.fillRect(0, HEAD - 18, edge, this.bottom + FOOT);
    pen.font = `600 12px ${FONT}`;
    for (const { lead, at } of this.rows) {
      pen.beginPath();
      [[1, 0], [2, 0], [2, 1], [7, 1], [7, 0], [8, 0]].forEach(([mm, mv], i) => {
        pen[i ? "lineTo" : "moveTo"](NAME + mm * this.px, this.y(at - mv * GAIN));
      });
      this.ink(pen);
      pen.fillStyle = INK;
      pen.fillText(lead, 4, this.y(at));
    }
    pen.beginPath();
    line(pen, edge - 1, HEAD, edge - 1, this.bottom);
    pen.strokeStyle = THICK;
    pen.lineWidth = 1;
    pen.stroke();
  }
}

// a line on whole pixels, which is sharp
function line(pen, x1, y1, x2, y2) {
  pen.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  pen.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
}

export function clock(t) {
  return t < 60 ? `${t} s` : `${Math.floor(t / 60)}:${String(t % 60).padStart(2, "0")} min`;
}

// {middle: mV, up, down: mm}: a lead's median, and room for it in whole thick squares; up holds the pulse
function extent(signal) {
  const step = Math.ceil(signal.length / 20000);
  const sorted = Float64Array.from(signal.filter((mv, i) => mv !== null && i % step === 0)).sort();
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))] ?? 0;
  const middle = at(0.5);
  const room = (mv, least) => Math.min(25, Math.max(least, 5 * Math.ceil((mv * GAIN - 1) / 5)));
  return { middle, up: room(at(0.999) - middle, 10), down: room(middle - at(0.001), 5) };
}
