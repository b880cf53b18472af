/** The server: its address, its key, its errors in its own words. */

import { events } from "./events.js";

/** Where the server is: the page's modules lie in a folder below it, also behind a proxy's path. */
export const SERVER = new URL("..", import.meta.url);

const KEY = "conjoin-key";

/** What the server refused, or that it did not answer (status 0). */
export class ApiError extends Error {
  constructor(message, { status = 0, field = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.field = field;
    this.retryAfter = retryAfter;
  }
}

/** True once a key was typed in. */
export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

/** Keep the key as long as this tab is open. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What GET /info tells. */
export async function info() {
  return (await request("info", { method: "GET" })).json();
}

/** The answer to a body that is posted. */
export async function post(path, body, signal) {
  return (await request(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

/** The events of POST /generate_stream, as they come. */
export async function* stream(body, signal) {
  const response = await request("generate_stream", { method: "POST", body: JSON.stringify(body), signal });
  try {
    for await (const event of events(response.body)) {
      if (event.error) throw new ApiError(event.error, { status: response.status, field: event.field ?? null });
      yield event;
    }
  } catch (error) {
    throw ofNetwork(error);
  }
}

async function request(path, options) {
  const headers = { "content-type": "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, SERVER), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    throw ofNetwork(error);
  }
  if (!response.ok) throw await ofResponse(response);
  return response;
}

function ofNetwork(error) {
  return error instanceof TypeError ? new ApiError("The server does not answer.") : error;
}

async function ofResponse(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new ApiError(body.error ?? `The server answers ${response.status} ${response.statusText}.`, {
    status: response.status,
    field: body.field ?? null,
    retryAfter: Number.isFinite(retryAfter) ? retryAfter : null,
  });
}
