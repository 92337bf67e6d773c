// The documentation page in a headless Chromium: every operation is there, and "Try it out" works.

const assert = require("node:assert/strict");
const { chromium } = require(process.env.PLAYWRIGHT);

const OPERATIONS = [
  "GET /api/users",
  "POST /api/users",
  "GET /api/users/{id}",
  "PUT /api/users/{id}",
  "DELETE /api/users/{id}",
];

// Fills the fields, sends the request, and returns what the page shows of the answer.
async function tryOut(page, operation, { fields = {}, body }) {
  const block = page.locator(`#operations-users-${operation}`);
  await block.locator(".opblock-summary-control").click();
  await block.getByRole("button", { name: "Try it out" }).click();
  for (const [name, value] of Object.entries(fields)) {
    await block.locator(`tr[data-param-name="${name}"] input`).fill(value);
  }
  if (body) {
    await block.locator("textarea.body-param__text").fill(body);
  }
  await block.getByRole("button", { name: "Execute" }).click();
  const answer = block.locator(".live-responses-table .response");
  const status = (await answer.locator(".response-col_status").innerText()).trim();
  const [responseBody, headers] = await answer.locator("pre.microlight").allInnerTexts();
  return {
    status,
    body: JSON.parse(responseBody),
    headers: Object.fromEntries(headers.trim().split("\n").map((line) => line.trim().split(/:\s*/, 2))),
  };
}

async function main(url, screenshot) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    const requests = [];
    page.on("request", (request) => requests.push(request.url()));
    const faults = [];
    page.on("pageerror", (error) => faults.push(error.message));
    page.on("console", (message) => message.type() === "error" && faults.push(message.text()));

    await page.goto(url);
    await page.locator(".opblock").first().waitFor();
    const operations = await page.locator(".opblock-summary-control").allInnerTexts();
    const found = operations.map((text) => text.split(/\s+/).slice(0, 2).join(" ").replace(/\u200b/g, ""));
    assert.deepEqual(found, OPERATIONS);

    const name = `Zoë ${Date.now()}`;
    const created = await tryOut(page, "createUser", { body: JSON.stringify({ name, age: 30 }) });
    assert.equal(created.status, "201");
    assert.equal(created.body.name, name);
    assert.equal(created.headers.location, `users/${created.body.id}`);
    const read = await tryOut(page, "getUser", { fields: { id: String(created.body.id) } });
    assert.equal(read.status, "200");
    assert.deepEqual(read.body, created.body);
    assert.equal(read.headers.etag, created.headers.etag);

    if (screenshot) {
      await page.screenshot({ path: screenshot, fullPage: true });
    }
    const elsewhere = requests.filter((it) => !it.startsWith(url) && !it.startsWith("data:"));
    assert.deepEqual(elsewhere, []);
    assert.deepEqual(faults, []);
    console.log(`the page sent ${requests.length} requests, all of them to ${url}`);
  } finally {
    await browser.close();
  }
}

main(...process.argv.slice(2));
