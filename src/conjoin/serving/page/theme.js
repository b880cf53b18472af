/* Sets the chosen colours before anything is drawn; a classic script, for modules run too late for that. */
(() => {
  let theme = "";
  try {
    theme = localStorage.getItem("conjoin-theme") ?? "";
  } catch {
    // a browser that keeps nothing
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
