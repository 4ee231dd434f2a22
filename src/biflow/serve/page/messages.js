// Text for the viewer: the state of the connection, banners, short notices, and speech for screen readers.

import { $ } from "./state.js";

export function status(name, text) {
  $("state").dataset.state = name;
  $("state").lastElementChild.textContent = text;
}

export function banner(text, action = "Try now") {
  $("banner").hidden = !text;
  $("banner").firstElementChild.textContent = text;
  $("retry").textContent = action;
}

export const note = (text) => { $("note").textContent = text; }; // where the picture will be

export function toast(content, milliseconds = 6000) {
  const line = document.createElement("p");
  line.append(content);
  if ($("toasts").lastChild?.textContent === line.textContent) $("toasts").lastChild.remove();
  $("toasts").append(line);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(() => line.remove(), milliseconds);
}

export const speak = (text) => { $("spoken").textContent = text; };
