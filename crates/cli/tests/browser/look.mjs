// Opens a page in Chromium, dark and light, wide and narrow, and says what it looks like as JSON:
//   node look.mjs MODULES CHROMIUM URL [WAIT-FOR-SELECTOR]
import { createRequire } from "node:module";

const [modules, executablePath, url, selector] = process.argv.slice(2);
const puppeteer = createRequire(modules + "/").call(null, "puppeteer-core");

/** Runs in the page: boxes of what is drawn, in pixels. */
function measure() {
  const box = (node) => {
    const { left, top, right, bottom } = node.getBoundingClientRect();
    return { left, top, right, bottom, text: (node.firstChild?.nodeValue ?? "").slice(0, 40) };
  };
  const all = (selector) => [...document.querySelectorAll(selector)].map(box);
  const style = getComputedStyle(document.body);
  return {
    ink: style.color,
    paper: style.backgroundColor,
    names: all("svg text.name"),
    bars: all("svg rect"),
    axis: all("svg text.axis[text-anchor]"),
    chart: all("svg")[0] ?? null,
    cells: all(".cell").length,
    headings: [...document.querySelectorAll("h1, h2")].map((node) => node.textContent),
    text: document.body.innerText.slice(0, 4000),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}

const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const result = { errors: [], looks: [] };
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  page.on("pageerror", (error) => result.errors.push("script: " + error.message));
  page.on("console", (said) => said.type() === "error" && result.errors.push("console: " + said.text()));
  page.on("requestfailed", (request) => result.errors.push("not loaded: " + request.url()));
  for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 480]]) {
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(url, { waitUntil: "load" });
    if (selector) await page.waitForSelector(selector);
    result.looks.push({ scheme, width, ...(await page.evaluate(measure)) });
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(result));
