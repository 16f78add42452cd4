// Microsoft's device SDK against the emulator: opens, sends and closes; is refused with a wrong key or as a stranger.
//
// usage: node device.mjs READY.json amqp|amqp_ws, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import crypto from 'node:crypto';
import fs from 'node:fs';
import common from 'azure-iot-common';
import device from 'azure-iot-device';
import deviceAmqp from 'azure-iot-device-amqp';
import iothub from 'azure-iothub';
import { Redirect } from './redirect.mjs';

const ready = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const [hub] = ready.hubs;
const webSocket = process.argv[3] === 'amqp_ws';
const transport = webSocket ? deviceAmqp.AmqpWs : deviceAmqp.Amqp;
const agent = new Redirect(ready.httpsPort);
// Over AMQP the port is part of the host name; over WebSocket the agent redirects.
const host = webSocket ? hub.hostName : `${hub.hostName}:${hub.amqpPort}`;
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function client(deviceId, key) {
  const made = device.Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${key}`, transport);
  // By default it tries for four minutes.
  made.setRetryPolicy(new common.NoRetry());
  return made;
}

async function open(made) {
  if (webSocket) await made.setOptions({ amqp: { webSocketAgent: agent } });
  await made.open();
}

async function refusal(made) {
  try {
    await open(made);
  } catch (error) {
    return error.constructor.name;
  } finally {
    await made.close().catch(() => {});
  }
  return 'was let in';
}

const registry = iothub.Registry.fromConnectionString(hub.serviceConnectionString);
registry._restApiClient.setOptions({ http: { agent: new Redirect(ready.httpsPort) } });
const deviceId = `node-${process.argv[3]}`;
const key = crypto.randomBytes(32).toString('base64');
const symmetricKey = { primaryKey: key, secondaryKey: crypto.randomBytes(32).toString('base64') };
await registry.create({ deviceId, status: 'enabled', authentication: { symmetricKey } });

const good = client(deviceId, key);
await open(good);
const message = new device.Message(JSON.stringify({ temperature: 21.5, place: 'Zürich' }));
message.contentType = 'application/json';
message.contentEncoding = 'utf-8';
message.messageId = 'from-node';
message.properties.add('origin', 'sdk');
const result = await good.sendEvent(message);
await good.close();
say({ sent: { deviceId, result: result.constructor.name } });

const wrong = await refusal(client(deviceId, crypto.randomBytes(32).toString('base64')));
const stranger = await refusal(client('nobody-knows-me', key));
say({ refused: { wrong, stranger } });
say({ webSockets: agent.connections });
process.exit(0);
