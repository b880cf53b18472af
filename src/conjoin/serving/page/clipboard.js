/** Copying a text, also where the page is not served over HTTPS. */

import { announce, make } from "./dom.js";

/** Copy a text, and say so. */
export async function copy(text, button) {
  if (!text) return;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  announce("Copied");
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1500);
}

function copyBySelection(text) {
  const field = make("textarea", { class: "sr", value: text });
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
}
