// Checks pages in Chromium: node check.mjs PAGE.html … Exit code 1 names what does not hold.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer from 'puppeteer-core';

const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const shots = process.env.SHOTS;
if (shots) fs.mkdirSync(shots, { recursive: true });
const browser = await puppeteer.launch({
  executablePath: process.env.BROWSER,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run'],
});
let failures = 0;

const check = async (name, run) => {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL  ${name}\n${String(error.message).replace(/^/gm, '      ')}`);
  }
};

const open = async (file, width, scheme) => {
  const page = await browser.newPage();
  const seen = { faults: [], requests: [] };
  page.on('console', (message) => { if (message.type() === 'error') seen.faults.push(message.text()); });
  page.on('pageerror', (error) => seen.faults.push(error.message));
  page.on('request', (request) => seen.requests.push(request.url()));
  await page.setOfflineMode(true);
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.setViewport({ width, height: 900, hasTouch: width < 500 });
  await page.goto(pathToFileURL(file).href);
  return [page, seen];
};

const shoot = async (page, file, what) => {
  if (!shots) return;
  const name = `${path.basename(file, '.html')}-${what}.png`;
  await page.screenshot({ path: path.join(shots, name), fullPage: true });
};

const interactions = async (file, page) => {
  const plots = await page.$$('figure[data-plot]');
  assert.ok(plots.length > 0, 'there are plots');
  for (const plot of plots) {
    const id = await plot.evaluate((node) => node.dataset.plot);
    const svg = await plot.$('svg');
    await svg.scrollIntoView();
    const box = await svg.boundingBox();
    const at = (x, y) => [box.x + x * box.width, box.y + y * box.height];
    const said = () => plot.$eval('output', (node) => node.textContent.trim());

    await page.mouse.move(...at(0.5, 0.5));
    assert.match(await said(), /\d/, `${id}: hover reads values out`);

    const toggle = await plot.$('[data-toggle]');
    const slot = await toggle.evaluate((node) => node.dataset.toggle);
    const shown = () => plot.$$eval(`svg [data-s="${slot}"]`, (nodes) =>
      nodes.filter((node) => node.style.display !== 'none').length);
    const before = await shown();
    assert.ok(before > 0, `${id}: the series is drawn`);
    await toggle.click();
    assert.equal(await shown(), 0, `${id}: a press hides the series`);
    assert.equal(await toggle.evaluate((node) => node.getAttribute('aria-pressed')), 'false');
    await toggle.click();
    assert.equal(await shown(), before, `${id}: another press shows it`);

    await page.mouse.move(...at(0.4, 0.5));
    await page.mouse.down();
    await page.mouse.move(...at(0.6, 0.5), { steps: 4 });
    await page.mouse.up();
    const reset = await plot.$('.reset');
    const zoomed = () => reset.evaluate((node) => !node.hidden);
    assert.ok(await zoomed(), `${id}: dragging zooms`);
    await reset.click();
    assert.ok(!(await zoomed()), `${id}: reset shows all`);

    await svg.evaluate((node) => node.focus());
    await page.keyboard.press('ArrowRight');
    assert.match(await said(), /\d/, `${id}: arrow keys read values out`);

    await plot.$eval('.values summary', (node) => node.click());
    const rows = await plot.$$eval('.values tbody tr', (nodes) => nodes.length);
    assert.ok(rows > 2, `${id}: the table beside it has rows`);
    await plot.$eval('.values summary', (node) => node.click());
  }
  await plots[0].evaluate((node) => node.scrollIntoView());
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  await page.$eval('#theme', (node) => node.click());
  assert.equal(await theme(), 'dark', 'the button switches to dark');
  await page.$eval('#theme', (node) => node.click());
  assert.equal(await theme(), 'light', 'and back');
};

const definitions = async (page) => {
  const links = await page.$$('a.term');
  if (links.length === 0) return;
  for (const link of links) {
    const known = await link.evaluate((node) => !!document.getElementById(node.hash.slice(1)));
    assert.ok(known, 'a term has its definition');
  }
  await links[0].evaluate((node) => node.click());
  const open = await page.$eval('#definition', (node) => node.matches(':popover-open') && node.textContent.length);
  assert.ok(open > 40, 'one click shows a definition');
  await page.keyboard.press('Escape');
  assert.ok(await page.$eval('#definition', (node) => !node.matches(':popover-open')), 'Escape closes it');
};

const accessible = async (page) => {
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
  const serious = violations.filter((one) => ['serious', 'critical'].includes(one.impact));
  const words = serious.map((one) => `${one.id} (${one.impact}): ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 140)).join(' | ')}`);
  assert.deepEqual(words, []);
};

for (const file of process.argv.slice(2)) {
  console.log(file);
  await check('is under 1 MB', () => assert.ok(fs.statSync(file).size < 1e6, `${fs.statSync(file).size} bytes`));
  for (const [width, scheme] of [[1280, 'light'], [1280, 'dark'], [768, 'light'], [390, 'light'], [390, 'dark']]) {
    const [page, seen] = await open(file, width, scheme);
    const where = `${width} px, ${scheme}`;
    await check(`does not scroll sideways at ${where}`, async () => {
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= room, `${wide} over ${room}`);
    });
    await shoot(page, file, `${width}-${scheme}`);
    if (width === 1280 && scheme === 'light') {
      await check('answers to a reader', () => interactions(file, page));
      await check('defines its terms', () => definitions(page));
      await check('prints', async () => {
        const pdf = await page.pdf({ format: 'A4', ...(shots ? { path: path.join(shots, `${path.basename(file, '.html')}.pdf`) } : {}) });
        assert.ok(pdf.length > 20_000, `${pdf.length} bytes`);
        await page.emulateMediaType('print');
        const hidden = await page.$$eval('#theme, nav, .values', (nodes) =>
          nodes.every((node) => getComputedStyle(node).display === 'none'));
        assert.ok(hidden, 'controls are not printed');
        await page.emulateMediaType(null);
      });
    }
    await check(`has no serious finding of axe at ${where}`, () => accessible(page));
    await check(`fetches nothing and has no error at ${where}`, () => {
      const own = pathToFileURL(file).href;
      assert.deepEqual(seen.requests.filter((url) => url.split('#')[0] !== own), []);
      assert.deepEqual(seen.faults, []);
    });
    await page.close();
  }
}
await browser.close();
console.log(failures ? `${failures} failed` : 'all hold');
process.exitCode = failures ? 1 : 0;
