// Checks that every `pattern` in openapi.yaml compiles in JavaScript, as generated clients write it, and in PCRE2, as
// PHP uses it.

const assert = require("node:assert/strict");
const { spawnSync } = require("node:child_process");
const { readFileSync } = require("node:fs");

const lines = readFileSync("openapi.yaml", "utf8").split("\n").filter((line) => /\bpattern:/.test(line));
const patterns = lines.map((line) => {
  const [, quoted] = /\bpattern: '((?:[^']|'')*)'/.exec(line) ?? assert.fail(`not one line in single quotes: ${line}`);
  return quoted.replaceAll("''", "'");
});
assert.ok(patterns.length > 0, "openapi.yaml has no pattern");

// GNU grep supports PCRE2; without it, nothing can be checked.
const grep = (pattern, locale) =>
  spawnSync("grep", ["-P", "-e", pattern], { input: "", encoding: "utf8", env: { ...process.env, LC_ALL: locale } });
assert.equal(grep("^a\\x00$", "C").status, 1, "this check needs a grep that supports -P");

for (const pattern of patterns) {
  for (const flags of ["", "u", "v"]) {
    new RegExp(pattern, flags);
  }
  // As a literal in source code: as is, and with escapes replaced by their characters, as some generators do.
  const character = (_, u, x) => String.fromCharCode(parseInt(u ?? x, 16));
  const decoded = pattern.replace(/\\(?:u([\da-f]{4})|x([\da-f]{2}))/gi, character);
  new Function(`return /${pattern}/u;`)();
  new Function(`return /${decoded}/u;`)();
  for (const locale of ["C", "C.UTF-8"]) {
    const { status, stderr } = grep(pattern, locale);
    assert.equal(status, 1, `${pattern} in PCRE2: ${stderr}`);
  }
}
console.log(`${patterns.length} patterns compile in JavaScript and PCRE2`);
