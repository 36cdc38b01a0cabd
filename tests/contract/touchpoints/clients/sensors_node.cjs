// Sensors Analytics' server SDK with its cache on disk: what was not taken is sent by the next process.
const util = require("node:util");

// Node 23 took away what the SDK's cache (nedb) asks for.
util.isArray ??= Array.isArray;
util.isDate ??= util.types.isDate;
util.isRegExp ??= util.types.isRegExp;
const SensorsAnalytics = require("sa-sdk-node");

const [url, cachePath, count] = process.argv.slice(2);
const sa = new SensorsAnalytics();
const errors = [];
const consumer = sa.initNWConsumer({ url, cachePath, gzip: true }, { count: 10, timeSpan: 100 });
consumer.catch((error) => errors.push(String(error)));
for (let n = 0; n < Number(count); n++) {
  sa.track(`u${n}`, "ModelViewed", { model: "X5", phone: "13800138000" });
}
// Its time spans are over and its cache is looked through; whoever kills it earlier finds the rest there.
process.stdin.once("data", () => {
  console.log(JSON.stringify({ errors }));
  process.exit(0);
});
