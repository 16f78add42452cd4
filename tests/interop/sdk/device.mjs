// Microsoft's device SDK against the emulator: opens, sends and closes; is refused with a wrong key or as a stranger.
//
// usage: node device.mjs READY.json amqp|amqp_ws, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import common from 'azure-iot-common';
import device from 'azure-iot-device';
import deviceAmqp from 'azure-iot-device-amqp';
import { key as newKey, parties, say } from './parties.mjs';
import { Redirect } from './redirect.mjs';

const { ready, hub, registry } = parties(process.argv[2]);
const webSocket = process.argv[3] === 'amqp_ws';
const transport = webSocket ? deviceAmqp.AmqpWs : deviceAmqp.Amqp;
const agent = new Redirect(ready.httpsPort);
// Over AMQP the port is part of the host name; over WebSocket the agent redirects.
const host = webSocket ? hub.hostName : `${hub.hostName}:${hub.amqpPort}`;

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

const deviceId = `node-${process.argv[3]}`;
const key = newKey();
const symmetricKey = { primaryKey: key, secondaryKey: newKey() };
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

const wrong = await refusal(client(deviceId, newKey()));
const stranger = await refusal(client('nobody-knows-me', key));
say({ refused: { wrong, stranger } });
say({ webSockets: agent.connections });
process.exit(0);
