// RudderStack's server SDK: events, then what an application does when it ends.
const Analytics = require("@rudderstack/rudder-sdk-node");

const [url, writeKey, count] = process.argv.slice(2);
const errors = [];
const client = new Analytics(writeKey, {
  dataPlaneUrl: url,
  flushAt: 20,
  flushInterval: 100,
  errorHandler: (error) => errors.push(error.response ? error.response.status : String(error)),
});
console.error = () => {};
// `flush` tells only of its own batch, so the end is when every event's callback was called.
const done = [];
const sent = (send) => done.push(new Promise((resolve) => send(resolve)));
for (let n = 0; n < Number(count); n++) {
  const event = { userId: `u${n}`, event: "Model Viewed", properties: { model: "X5", phone: "13800138000" } };
  sent((resolve) => client.track(event, resolve));
}
sent((resolve) => client.identify({ userId: "u0", traits: { name: "张三", plan: "gold" } }, resolve));
client.flush().catch(() => {});
Promise.all(done).then(() => {
  console.log(JSON.stringify({ errors }));
  process.exit(0);
});
