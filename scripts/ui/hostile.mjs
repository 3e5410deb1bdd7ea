// Requests of somebody who means no good.

import { request } from "node:http";
import { expect } from "./tools.mjs";

/** A request as it is: no browser and no library mends it. */
function raw(server, { method = "GET", path = "/", headers = {}, body = "" }) {
  return new Promise((resolve) => {
    const asked = request({ host: "127.0.0.1", port: server.port, method, path, headers, setHost: false }, (answer) => {
      let text = "";
      answer.on("data", (piece) => (text += piece));
      answer.on("end", () => resolve({ status: answer.statusCode, text }));
    });
    asked.on("error", (error) => resolve({ status: 0, text: error.message }));
    asked.end(body);
  });
}

export async function hostile(server) {
  const host = `127.0.0.1:${server.port}`;
  const authorization = `Bearer ${server.token}`;
  const refused = async (what, status, options) => {
    const answer = await raw(server, { ...options, headers: { host, authorization, ...options.headers } });
    expect(answer.status === status && !answer.text.includes("root:"), `${what}: ${answer.status} ${answer.text.slice(0, 90)}`);
  };
  await refused("a foreign host", 403, { path: "/api/state", headers: { host: `evil.example:${server.port}` } });
  await refused("a foreign origin", 403, { path: "/api/state", headers: { origin: "http://evil.example" } });
  await refused("no origin at all", 403, { path: "/api/state", headers: { origin: "null" } });
  await refused("a wrong token", 401, { path: "/api/state", headers: { authorization: "Bearer 0" } });
  await refused("a wrong token in the address", 401, { path: "/?token=0", headers: { authorization: "" } });
  for (const trick of ["..%2f..%2f..%2fetc%2fpasswd", "%2e%2e", "..", "%2fetc%2fpasswd", "a%00b", "..%5c..", ".removed"]) {
    for (const path of [`/api/subjects/clock/photos/${trick}`, `/api/pictures/clock/${trick}`, `/api/pictures/${trick}/x.png`, `/api/adapters/clock/photos/${trick}`, `/api/adapters/${trick}/losses`, `/api/exports/${trick}/x`, `/page/${trick}`]) {
      const { status, text } = await raw(server, { path, headers: { host, authorization } });
      expect([400, 404].includes(status) && !text.includes("root:"), `${path}: ${status}`);
    }
  }
  await refused("an upload of 2 GB", 413, { method: "POST", path: "/api/subjects/clock/photos?name=a.png", headers: { "content-length": String(2 ** 31), expect: "100-continue" } });
  await refused("a picture that is none", 422, { method: "POST", path: "/api/subjects/clock/photos?name=a.png", body: "\x89PNG\r\n\x1a\nnothing" });
}
