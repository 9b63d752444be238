// The page without reloads: forms are sent in the background, and what comes back takes the old page's place.
// The server draws everything; without this script the same forms work by themselves.
import { mount } from "./picture.js";

const BUSY = [429, 503];
const TRIES = 6;
const FIND = { segment: "Looking for bone", detect: "Looking for fractures" };
let file = null; // the picture at hand
let drawn = null; // the one that is seen
let asking = null;

const main = () => document.querySelector("main");
const say = (text) => (document.getElementById("status").textContent = text);

/** Send a picture to `/segment` or `/detect` and show the answer; a newer question ends an older one. */
async function ask(action, given, fields = {}) {
  asking?.abort();
  const mine = (asking = new AbortController());
  const limit = Number(main().dataset.maxBytes);
  if (given.size > limit) {
    complain("Too large", `This file has ${megabytes(given.size)} MB; ${megabytes(limit)} MB are taken.`);
    return;
  }
  file = given;
  const body = new FormData();
  const sent = { csrf: main().dataset.csrf, scripted: "true", ...fields };
  for (const [name, value] of Object.entries(sent)) body.append(name, value);
  body.append("file", given);
  const words = FIND[new URL(action, location).pathname.split("/").pop()];
  wait(given);
  try {
    show(await answerTo(action, body, words, mine.signal));
    drawn = given;
  } catch (error) {
    if (error.name !== "AbortError") {
      complain("No answer", "The server cannot be reached, or took no more of the file. Try again.");
    }
  } finally {
    if (asking === mine) {
      document.body.classList.remove("busy");
      say("");
    }
  }
}

/** Send a form; where the service is busy, again when it says. */
async function answerTo(action, body, words, signal) {
  for (let left = TRIES; ; left--) {
    say(`${words} …`);
    const answer = await fetch(action, { method: "POST", body, signal });
    const seconds = Number(answer.headers.get("Retry-After"));
    if (!BUSY.includes(answer.status) || !seconds || left === 1) return answer.text();
    say(`The service is busy; again in ${seconds} s …`);
    await new Promise((go) => setTimeout(go, seconds * 1000));
    signal.throwIfAborted();
  }
}

/** Take the main part of a page that the server drew. */
function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const next = page.querySelector("main");
  if (!next) throw new Error("no page");
  main().replaceWith(document.adoptNode(next));
  document.title = page.title;
  next.tabIndex = -1;
  const wanted = next.querySelector("[role=alert], .steps [data-state=now] button, [data-state=failed] h2, .fractures input:checked");
  if (wanted && !wanted.matches("button, input")) wanted.tabIndex = -1;
  (wanted ?? next).focus({ preventScroll: true });
  mount(next);
}

/** Show that something is going on, with the picture itself where the browser knows its kind. */
function wait(given) {
  document.body.classList.add("busy");
  const stage = document.querySelector(".stage");
  if (!stage || (stage.querySelector(".picture") && given === drawn)) return;
  const image = new Image();
  image.className = "preview";
  image.alt = "";
  image.src = URL.createObjectURL(given);
  image.onload = () => {
    if (document.body.classList.contains("busy")) stage.replaceChildren(image);
    URL.revokeObjectURL(image.src);
  };
  image.onerror = () => URL.revokeObjectURL(image.src);
}

/** Say what went wrong, where the drop zone is. */
function complain(title, detail) {
  document.body.classList.remove("busy");
  say("");
  document.querySelector(".problem")?.remove();
  const note = document.createElement("div");
  note.className = "problem";
  note.setAttribute("role", "alert");
  note.append(Object.assign(document.createElement("b"), { textContent: title }));
  note.append(Object.assign(document.createElement("p"), { textContent: detail }));
  document.querySelector(".drop, .steps li").prepend(note);
}

const megabytes = (bytes) => (bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0);

function extra(form) {
  return form.elements.force ? { force: "true" } : {};
}

document.addEventListener("change", (event) => {
  const input = event.target.closest(".give input[type=file]");
  if (input?.files.length) ask(input.form.action, input.files[0], extra(input.form));
});
document.addEventListener("submit", (event) => {
  const form = event.target.closest(".give");
  if (!form) return;
  const given = form.elements.file.files[0] ?? file;
  if (!given) return; // the browser asks for one
  event.preventDefault();
  ask(form.action, given, extra(form));
});
document.addEventListener("click", async (event) => {
  const again = event.target.closest(".give .again");
  if (again && file) again.form.elements.file.required = false;
  const sample = event.target.closest("a.sample");
  if (!sample) return;
  event.preventDefault();
  const picture = await (await fetch(sample.href)).blob();
  give(new File([picture], "sample.png", { type: "image/png" }));
});

const give = (given) => given && document.querySelector(".look") && ask(`${main().dataset.root}/segment`, given);
let inside = 0;
document.addEventListener("dragenter", () => document.body.classList.toggle("dropping", ++inside > 0));
document.addEventListener("dragleave", () => document.body.classList.toggle("dropping", --inside > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dropping");
  give(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => give(event.clipboardData.files[0]));

mount(main());
