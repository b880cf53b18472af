/** Keys that work everywhere: Ctrl or Cmd + Enter generates, Esc stops, Alt + C copies the target. */

/** @param {{run: () => void, stop: () => void, copy: () => void}} actions */
export function listen({ run, stop, copy }) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(event, run);
    else if (event.key === "Escape") act(event, stop);
    else if (event.code === "KeyC" && event.altKey && !event.ctrlKey && !event.metaKey) act(event, copy);
  });
}

function act(event, action) {
  event.preventDefault();
  action();
}
