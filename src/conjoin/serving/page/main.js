/** The page: what each part tells the others. */

import { ApiError, hasKey, info, SERVER, setKey } from "./api.js";
import { CodeView } from "./codeview.js";
import { copy } from "./clipboard.js";
import { find, tell } from "./dom.js";
import { Files } from "./files.js";
import { listen } from "./keyboard.js";
import { Models } from "./models.js";
import { bodyOf } from "./request.js";
import { Settings } from "./settings.js";
import { chooseTheme } from "./colours.js";
import { Work } from "./work.js";

const settings = new Settings(() => files.settingsChanged());
const models = new Models(modelChanged);
const work = new Work({ settings, models, request, askForKey });
const files = new Files({ models, request, adopt, askForKey });
const code = new CodeView();
let server = null;

/** The request of this moment, for a text. */
function request(text) {
  return bodyOf(text, { model: models.name, languages: models.languages, settings: settings.values });
}

/** Make the settings of a request those of the page. */
function adopt({ model, parameters = {} }) {
  const { src_lang: source, tgt_lang: target, ...values } = parameters;
  models.show(server, { model: model ?? models.model.id, source, target });
  modelChanged();
  settings.set(values);
}

async function start() {
  try {
    server = await info();
  } catch (error) {
    if (error.status === 401) askForKey(error);
    else tell(find("server-state"), error.message);
    if (error.status !== 401) setTimeout(start, 3000);
    return;
  }
  find("key-form").hidden = true;
  const names = ["model", "source", "target"].map((name) => [name, settings.beside(name)]);
  models.show(server, Object.fromEntries(names));
  settings.show(server, models.model);
  work.show(models);
  files.show(server);
  if (models.model.state === "loading") setTimeout(start, 1500);
}

function modelChanged() {
  const [source, target] = models.languages ?? [null, null];
  settings.setBeside("model", models.languages ? null : models.name);
  settings.setBeside("source", source);
  settings.setBeside("target", target);
  settings.show(server, models.model);
  work.show(models);
}

function askForKey(error) {
  find("key-form").hidden = false;
  find("key-text").textContent = error.message;
  find("key").focus();
}

function showView(name) {
  find("text-view").hidden = name !== "text";
  find("files-view").hidden = name !== "files";
  for (const each of ["text", "files"]) find(`view-${each}`).setAttribute("aria-pressed", `${each === name}`);
}

function showCode() {
  const { model } = models;
  const length = model.generation?.max_new_tokens ?? model.generation?.max_length ? null : 128;
  const place = { server: SERVER.href, name: model.id, needsKey: hasKey(), length };
  code.open(request(work.source || "text"), place);
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(find("key").value.trim());
  find("key").value = "";
  start();
});
find("view-text").addEventListener("click", () => showView("text"));
find("view-files").addEventListener("click", () => showView("files"));
find("open-code").addEventListener("click", () => server && showCode());
find("copy").addEventListener("click", (event) => copy(work.target, event.currentTarget));
find("swap").addEventListener("click", () => work.swap());
chooseTheme(() => work.redraw());
listen({
  run: () => find("text-view").hidden || work.start(),
  stop: () => work.stop(),
  copy: () => copy(work.target, find("copy")),
});
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof ApiError) tell(find("server-state"), event.reason.message);
});
start();
