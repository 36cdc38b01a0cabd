// Segment's server SDK: events, then what an application does when it ends.
const { Analytics } = require("@segment/analytics-node");

const [url, writeKey, count] = process.argv.slice(2);
const analytics = new Analytics({ writeKey, host: url, flushAt: 20, maxRetries: 3 });
const errors = [];
analytics.on("error", (error) => errors.push(error.code));
for (let n = 0; n < Number(count); n++) {
  analytics.track({ userId: `u${n}`, event: "Model Viewed", properties: { model: "X5", phone: "13800138000" } });
}
analytics.identify({ userId: "u0", traits: { name: "张三", plan: "gold" } });
analytics.closeAndFlush({ timeout: 20000 }).then(() => console.log(JSON.stringify({ errors })));
