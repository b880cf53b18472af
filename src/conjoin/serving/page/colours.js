/** The switch of light and dark; theme.js sets what is chosen before the page is drawn. */

import { find } from "./dom.js";

const NAME = "conjoin-theme";

/** Make the switch work; `changed` is called when other colours are chosen. */
export function chooseTheme(changed) {
  const select = find("theme");
  select.value = document.documentElement.dataset.theme ?? "";
  select.addEventListener("change", () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
    keep(select.value);
    changed();
  });
}

function keep(theme) {
  try {
    localStorage.setItem(NAME, theme);
  } catch {
    // a browser that keeps nothing: chosen for this visit only
  }
}
