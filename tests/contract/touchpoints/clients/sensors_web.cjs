// Sensors Analytics' web SDK as a page loads it, in a window of jsdom; batches wait in localStorage until they are taken.
const fs = require("node:fs");
const { JSDOM, VirtualConsole } = require("jsdom");

const [url, count] = process.argv.slice(2);
const dom = new JSDOM("<!doctype html><title>X5</title>", {
  url: "http://127.0.0.1/models/x5",
  runScripts: "outside-only",
  pretendToBeVisual: true,
  virtualConsole: new VirtualConsole(),
});
const { window } = dom;
window.eval(fs.readFileSync(require.resolve("sa-sdk-javascript/sensorsdata.min.js"), "utf8"));
const sensors = window.sensorsDataAnalytic201505;
sensors.init({
  server_url: url,
  send_type: "ajax",
  batch_send: { datasend_timeout: 2000, send_interval: 200 },
  show_log: false,
  heatmap: { clickmap: "not_collect", scroll_notice_map: "not_collect" },
});
sensors.login("member-1");
sensors.quick("autoTrackSinglePage");
for (let n = 0; n < Number(count); n++) {
  sensors.track("ModelViewed", { model: "X5", n, phone: "13800138000" });
}
sensors.setProfile({ city: "深圳" });
// Whoever leaves before has what was not taken in localStorage; the test tells when it has seen enough.
process.stdin.once("data", () => {
  console.log(JSON.stringify({ kept: Object.keys(window.localStorage).filter((key) => key.includes("sawebjssdk-")).length }));
  process.exit(0);
});
