/** The settings in the address: #num_beams=4&do_sample=true. */

/** Names and texts in the address. */
export function readHash() {
  return new Map(new URLSearchParams(location.hash.slice(1)));
}

/** Put names and texts into the address, without a new entry of the history. */
export function writeHash(values) {
  const hash = new URLSearchParams([...values]).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

/** Call a function when somebody else changes the address: a link, or the back button. */
export function onHash(changed) {
  window.addEventListener("hashchange", changed);
}
