// The documentation page in a headless Chromium, which sends requests only to the page's own server.
//
//   node page.js check URL API FOLDER     tests the page at URL, whose API is at the URL API, and the one in FOLDER,
//                                         opened as a file
//   node page.js screenshot URL FILE      takes a screenshot of it

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { pathToFileURL } = require("node:url");
const { chromium } = require(process.env.PLAYWRIGHT);

// In an order in which each works on an empty database with the values that the page fills in.
const OPERATIONS = [
  { method: "POST", path: "/api/users", status: "201 Created", header: "location" },
  { method: "GET", path: "/api/users", status: "200 OK", header: "cache-control" },
  { method: "GET", path: "/api/users/{id}", status: "200 OK", header: "etag" },
  { method: "PUT", path: "/api/users/{id}", status: "200 OK", header: "etag" },
  { method: "DELETE", path: "/api/users/{id}", status: "200 OK", header: "content-type" },
];

const CLIENTS = ["Fetch", "Requests", "reqwest", "Curl"];

// In bytes: README displays the picture, so it must stay small.
const LARGEST_PICTURE = 150 * 1024;

// Opens the page; every request to another server and every error counts as a fault.
async function open(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const faults = [];
  const origin = url.startsWith("file:") ? new URL(".", url).href : new URL(url).origin;
  await context.route("**/*", (route) => {
    if ([`${origin}`, "data:", "blob:"].some((start) => route.request().url().startsWith(start))) {
      return route.continue();
    }
    faults.push(`asks for ${route.request().url()}`);
    return route.abort();
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  await page.goto(url);
  await page.getByRole("heading", { name: "Users API" }).waitFor();
  return { page, faults };
}

const link = (page, { method, path }) => page.locator(`a[href$="#tag/users/${method}${path}"]`).first();

const shown = (page) => page.getByRole("main", { name: "API documentation" }).innerText();

// Navigates to an operation and returns the button that opens its form.
async function visit(page, operation) {
  await link(page, operation).click();
  const button = page.getByRole("button", {
    name: `Test Request (${operation.method.toLowerCase()} ${operation.path})`,
  });
  await button.waitFor();
  return button;
}

// Sends what the form contains when it opens, and returns what it shows of the response.
async function tryOut(page, operation) {
  await (await visit(page, operation)).click();
  const dialog = page.getByRole("dialog").filter({ hasText: "Response" });
  await dialog.getByRole("button", { name: /^Send/ }).first().click();
  await dialog.getByRole("button", { name: /^Response Headers/ }).click();
  const answer = await dialog.innerText();
  await dialog.getByRole("button", { name: "Close Client" }).click();
  await dialog.waitFor({ state: "hidden" });
  return answer;
}

async function check(browser, url, api, folder) {
  const { page, faults } = await open(browser, url);
  const links = await page.locator('a[href*="#tag/users/"]').evaluateAll((all) => all.map((it) => it.hash));
  const expected = OPERATIONS.map(({ method, path }) => `#tag/users/${method}${path}`);
  assert.deepEqual([...new Set(links)].sort(), expected.sort());

  await page.getByRole("button", { name: "Select from all clients" }).click();
  const clients = await page.getByRole("option").allInnerTexts();
  assert.deepEqual(clients.map((text) => text.trim()), CLIENTS);
  await page.keyboard.press("Escape");

  const contract = await (await fetch(new URL("openapi.yaml", url))).text();
  const patterns = [...contract.matchAll(/pattern: '(.*?)'/g)].map(([, pattern]) => pattern);
  assert.notDeepEqual(patterns, []);
  for (const operation of OPERATIONS) {
    const answer = await tryOut(page, operation);
    const name = `${operation.method} ${operation.path}`;
    assert.ok(answer.includes(operation.status), `${name} is not answered ${operation.status}: ${answer}`);
    assert.match(answer.toLowerCase(), new RegExp(`\n${operation.header}\n`), `${name}: ${answer}`);
    const text = await shown(page);
    assert.ok(text.includes(`${api}${operation.path}`.replace("{id}", "1")), `${name}: no curl line: ${text}`);
    // Nothing requires authentication, so no lock is shown; and regular expressions are for machines.
    assert.doesNotMatch(text, /Auth|\{origin\}/, name);
    assert.deepEqual(patterns.filter((pattern) => text.includes(pattern)), [], name);
  }
  assert.deepEqual(faults, []);

  const dark = await open(browser, url, { colorScheme: "dark", viewport: { width: 390, height: 844 } });
  const { brightness, width } = await dark.page.evaluate(() => ({
    brightness: Math.max(...getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3)),
    width: document.documentElement.scrollWidth,
  }));
  assert.ok(brightness < 64, `the dark page is not dark: ${brightness}`);
  assert.ok(width <= 390, `a narrow page is ${width} wide`);
  assert.deepEqual(dark.faults, []);

  // Opened as a file, it still shows commands to copy, and says what sending requires.
  const file = await open(browser, `${pathToFileURL(folder).href}/index.html`);
  await visit(file.page, OPERATIONS[0]);
  const text = await shown(file.page);
  assert.match(text, /curl http:\/\/localhost:5000\/api\/users/);
  assert.match(text, /must allow the origin null by CORS/);
  assert.deepEqual(file.faults, []);
  console.log("the page showed and sent everything, and contacted no other server");
}

async function screenshot(browser, url, file) {
  const { page } = await open(browser, url, { viewport: { width: 1280, height: 800 } });
  await visit(page, OPERATIONS[0]);
  const picture = await page.screenshot();
  assert.ok(picture.length <= LARGEST_PICTURE, `the picture has ${picture.length} bytes`);
  fs.writeFileSync(file, picture);
}

async function main(command, ...rest) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM });
  try {
    await { check, screenshot }[command](browser, ...rest);
  } finally {
    await browser.close();
  }
}

main(...process.argv.slice(2));
