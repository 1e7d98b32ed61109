/** `POST /v1/identify`, with progress and one kind of error. */

export const TOP_K = 5;

/** The address of the API, wherever the page is mounted. */
export function identifyUrl(options) {
  const url = new URL("v1/identify", document.baseURI);
  url.searchParams.set("top_k", TOP_K);
  for (const [name, value] of Object.entries(options)) {
    if (value !== null) url.searchParams.set(name, value);
  }
  return url;
}

/** What a photo is sent as: browsers have no type for files that they don't know, HEIC for one. */
export function contentType(file) {
  return file.type.startsWith("image/") ? file.type : "application/octet-stream";
}

/** Why there is no answer; `status` is 0 where the server was not reached. */
export class ApiError extends Error {
  constructor({ status, code, message, requestId = null, retryAfter = null }) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }

  /** The same request may succeed later. */
  get isPassing() {
    return this.status === 429 || this.status >= 500 || this.status === 408 || this.status === 0;
  }
}

/**
 * Ask about one photo.
 *
 * @param {File} file
 * @param {{box: string|null, key: string|null, signal: AbortSignal,
 *   onProgress: (share: number) => void}} options `onProgress` hears how much is sent, 0 to 1
 * @returns {Promise<object>} the API's answer, with a heatmap
 * @throws {ApiError}
 */
export function identify(file, { box, key, signal, onProgress }) {
  // fetch() can't tell how much of a photo is on its way, and a phone takes seconds for one.
  const request = new XMLHttpRequest();
  request.open("POST", identifyUrl({ explain: true, box }));
  request.responseType = "json";
  request.setRequestHeader("Content-Type", contentType(file));
  if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
  return new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("load", () => {
      if (request.status === 200 && request.response) resolve(request.response);
      else reject(refusal(request));
    });
    for (const event of ["error", "abort"]) {
      request.addEventListener(event, () => reject(unreachable()));
    }
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function refusal(request) {
  const { status, response } = request;
  const seconds = Number.parseInt(request.getResponseHeader("Retry-After"), 10);
  return new ApiError({
    status,
    code: response?.error?.code ?? "unknown",
    // A proxy in between has no words of the API's.
    message: response?.error?.message ?? `The server answered ${status} and gave no reason.`,
    requestId: response?.request_id ?? null,
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  });
}

function unreachable() {
  return new ApiError({
    status: 0,
    code: "unreachable",
    message: "The server did not answer, or the file changed or vanished. Check both and try again.",
  });
}
