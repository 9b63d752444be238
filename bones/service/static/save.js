// What is shown, as files: the boxes of the chosen score, as JSON and as a picture.

const RIM = "#000";
const FOUND = "#ff8a5c";
const PAGE = "#0b0e13";
const INK = "#d9e0ea";

/** Save the record with the boxes that score `least` or more; `point` is their operating point, or null. */
export function saveJson(main, least, point) {
  const link = main.querySelector("[data-save=json]");
  const [, coded] = link.href.split(",");
  const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
  const record = JSON.parse(new TextDecoder().decode(bytes));
  record.threshold = least;
  record.operating_point = point;
  record.detections = record.detections.filter((found) => found.score >= least);
  download(new Blob([`${JSON.stringify(record, null, 2)}\n`], { type: "application/json" }), link.download);
}

/** Save the picture with the boxes that are shown, each with its score, and a line of words below. */
export async function savePng(main, least) {
  const svg = main.querySelector("svg.picture");
  const film = svg.querySelector(".film");
  const image = new Image();
  image.src = film.href.baseVal;
  await image.decode();
  const scale = image.naturalWidth / film.width.baseVal.value;
  const letter = Math.max(13, Math.max(image.naturalWidth, image.naturalHeight) / 70);
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight + 2 * letter;
  const draw = canvas.getContext("2d");
  draw.fillStyle = PAGE;
  draw.fillRect(0, 0, canvas.width, canvas.height);
  draw.filter = main.querySelector("#invert").checked ? "invert(1)" : "none";
  draw.drawImage(image, 0, 0);
  draw.filter = "none";
  draw.font = `600 ${letter}px system-ui, sans-serif`;
  draw.lineJoin = "round";
  for (const box of svg.querySelectorAll(".box:not(.below)")) outline(draw, box, scale, letter);
  draw.font = `${letter * 0.85}px system-ui, sans-serif`;
  draw.fillStyle = INK;
  const words = `score of ${least.toFixed(2)} or more · research software, not a medical device`;
  draw.fillText(words, letter / 2, canvas.height - 0.7 * letter, canvas.width - letter);
  canvas.toBlob((blob) => download(blob, main.querySelector("[data-save=png]").download), "image/png");
}

function outline(draw, box, scale, letter) {
  const { x, y, width, height } = box.querySelector(".line").getBBox();
  const area = [x, y, width, height].map((value) => value * scale);
  for (const [colour, thick] of [[RIM, letter / 4], [FOUND, letter / 8]]) {
    draw.strokeStyle = colour;
    draw.lineWidth = thick;
    draw.strokeRect(...area);
  }
  const text = box.querySelector("text").textContent;
  const above = area[1] > 1.5 * letter;
  const at = [area[0], above ? area[1] - 0.45 * letter : area[1] + area[3] + 1.15 * letter];
  draw.strokeStyle = RIM;
  draw.lineWidth = letter / 4;
  draw.strokeText(text, ...at);
  draw.fillStyle = FOUND;
  draw.fillText(text, ...at);
}

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
