// Subscribes to all that a server of Foxglove offers, with Foxglove's own client of npm, and prints
// {"topic", "name", "encoding", "schema", "data"} a line for each message, bytes as base64.
// node foxglove_client.mjs FOLDER URL    FOLDER has node_modules with @foxglove/ws-protocol and ws
import { createRequire } from "node:module";
const require = createRequire(`${process.argv[2]}/`);
const { FoxgloveClient } = require("@foxglove/ws-protocol");
const WebSocket = require("ws");

// The client of 0.8 knows an older name of the same protocol only.
const client = new FoxgloveClient({ ws: new WebSocket(process.argv[3], ["foxglove.sdk.v1"]) });
const channels = new Map();
client.on("advertise", (offered) => {
  for (const channel of offered) channels.set(client.subscribe(channel.id), channel);
});
client.on("message", ({ subscriptionId, data }) => {
  const channel = channels.get(subscriptionId);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  console.log(JSON.stringify({
    topic: channel.topic, name: channel.schemaName, encoding: channel.schemaEncoding,
    schema: channel.schema, data: bytes.toString("base64"),
  }));
});
client.on("error", (error) => { console.error(String(error)); process.exit(1); });
client.on("close", () => process.exit(0));
