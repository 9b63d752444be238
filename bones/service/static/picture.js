// The picture: zoom, pan, the least score, and what is chosen. All of it stays in the browser.
import { saveJson, savePng } from "./save.js";

const STEP = 1.25;
const MOST = 24;

/** Bring a page's picture to life, if it has one. */
export function mount(main) {
  const svg = main.querySelector("svg.picture");
  if (!svg) return;
  const view = zoomable(svg, main.querySelector(".zoom"));
  if (main.querySelector(".fractures")) scores(main, view);
}

/** Zoom with the wheel, two fingers or keys, pan by dragging; the view is the SVG's viewBox. */
function zoomable(svg, tools) {
  const whole = { x: 0, y: 0, width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
  svg.classList.add("live");
  let scale = 1;
  let centre = { x: whole.width / 2, y: whole.height / 2 };

  function draw() {
    const width = whole.width / scale;
    const height = whole.height / scale;
    centre.x = Math.min(Math.max(centre.x, width / 2), whole.width - width / 2);
    centre.y = Math.min(Math.max(centre.y, height / 2), whole.height - height / 2);
    svg.setAttribute("viewBox", `${centre.x - width / 2} ${centre.y - height / 2} ${width} ${height}`);
    svg.style.touchAction = scale > 1 ? "none" : "pan-y"; // one finger scrolls the page until there is something to pan
    const matrix = svg.getScreenCTM();
    if (!matrix) return;
    svg.style.setProperty("--unit", 1 / matrix.a); // pixels of the picture in one of the screen
    tools.querySelector("output").textContent = `${scale.toFixed(1)} ×`;
  }
  function zoom(factor, at = centre) {
    const next = Math.min(Math.max(scale * factor, 1), MOST);
    const kept = scale / next;
    centre = { x: at.x + (centre.x - at.x) * kept, y: at.y + (centre.y - at.y) * kept };
    scale = next;
    draw();
  }
  function show(box) {
    const room = 4;
    scale = Math.min(Math.max(Math.min(whole.width / (box.width * room), whole.height / (box.height * room)), 1), MOST / 2);
    centre = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    draw();
  }
  const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const fit = () => zoom(0);

  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(STEP ** (-event.deltaY / 100), place(event));
  }, { passive: false });
  const fingers = new Map();
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => fingers.delete(event.pointerId));
  svg.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const unit = 1 / svg.getScreenCTM().a;
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    centre.x -= ((event.clientX - before.clientX) * unit) / fingers.size;
    centre.y -= ((event.clientY - before.clientY) * unit) / fingers.size;
    fingers.set(event.pointerId, event);
    if (other) {
      const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoom(apart(event) / Math.max(apart(before), 1), place({
        clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2,
      }));
    } else draw();
  });
  svg.addEventListener("dblclick", (event) => (scale > 1 ? fit() : zoom(3, place(event))));
  svg.addEventListener("keydown", (event) => {
    const across = whole.width / scale / 8;
    const down = whole.height / scale / 8;
    const keys = {
      "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: fit,
      ArrowLeft: () => (centre.x -= across), ArrowRight: () => (centre.x += across),
      ArrowUp: () => (centre.y -= down), ArrowDown: () => (centre.y += down),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    draw();
  });
  const buttons = { in: () => zoom(STEP), out: () => zoom(1 / STEP), fit };
  tools.addEventListener("click", (event) => buttons[event.target.dataset.zoom]?.());
  new ResizeObserver(draw).observe(svg);
  return { show };
}

/** The least score that is shown, by slider or by operating point, and the list beside the picture. */
function scores(main, view) {
  const slider = main.querySelector("#least");
  const points = [...main.querySelectorAll("input[name=point]")];
  const boxes = [...main.querySelectorAll("[data-score]")];
  const count = main.querySelector(".count");
  let least = Number(main.querySelector("input[name=point]:checked").dataset.least);

  function draw() {
    for (const box of boxes) box.classList.toggle("below", Number(box.dataset.score) < least);
    const shown = main.querySelectorAll(".found li:not(.below)").length;
    count.textContent = `${shown} ${shown === 1 ? "box" : "boxes"}`;
    count.hidden = shown === 0;
    main.querySelector(".nothing").style.display = shown ? "none" : "block";
    slider.value = least;
    slider.nextElementSibling.textContent = least.toFixed(2);
    for (const point of points) point.checked = Number(point.dataset.least) === least;
  }
  function choose(id, on) {
    for (const each of main.querySelectorAll(".chosen")) each.classList.remove("chosen");
    if (!on) return;
    main.querySelector(`#${id}`).classList.add("chosen");
    main.querySelector(`.found a[href="#${id}"]`).parentElement.classList.add("chosen");
  }
  slider.addEventListener("input", () => { least = Number(slider.value); draw(); });
  for (const point of points) point.addEventListener("change", () => { least = Number(point.dataset.least); draw(); });
  main.querySelector(".found").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    const id = link.getAttribute("href").slice(1);
    choose(id, true);
    const rect = main.querySelector(`#${id} .line`);
    view.show(rect.getBBox());
  });
  for (const box of main.querySelectorAll(".picture .box")) {
    box.addEventListener("pointerenter", () => choose(box.id, true));
  }
  main.querySelector(".save").addEventListener("click", (event) => {
    const save = { png: savePng, json: saveJson }[event.target.dataset.save];
    if (!save) return;
    event.preventDefault();
    save(main, least, points.find((point) => point.checked)?.value ?? null);
  });
  draw();
}
