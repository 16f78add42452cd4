// A device's whole life at the emulator: Microsoft's device SDK on one side, its service SDK on the other.
//
// usage: node life.mjs READY.json amqp|amqp_ws, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import common from 'azure-iot-common';
import device from 'azure-iot-device';
import deviceAmqp from 'azure-iot-device-amqp';
import { codeOf, errorOf, Mailbox, parties, say } from './parties.mjs';
import { Redirect } from './redirect.mjs';

const { ready, hub, registry, service, caller } = parties(process.argv[2]);
const webSocket = process.argv[3] === 'amqp_ws';
const deviceId = `life-${process.argv[3]}`;
const agent = new Redirect(ready.httpsPort);
const { responseBody: created } = await registry.create({ deviceId });
const { primaryKey } = created.authentication.symmetricKey;

async function arrive() {
  const host = webSocket ? hub.hostName : `${hub.hostName}:${hub.amqpPort}`;
  const text = `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${primaryKey}`;
  const client = device.Client.fromConnectionString(text, webSocket ? deviceAmqp.AmqpWs : deviceAmqp.Amqp);
  client.setRetryPolicy(new common.NoRetry());
  if (webSocket) await client.setOptions({ amqp: { webSocketAgent: agent } });
  await client.open();
  return client;
}

function message(messageId, body) {
  const made = new common.Message(body);
  made.messageId = messageId;
  made.ack = 'full';
  made.properties.add('colour', 'green');
  return made;
}

const invoke = async (methodName, payload) => {
  const { result } = await caller.invokeDeviceMethod(deviceId, { methodName, payload, responseTimeoutInSeconds: 5 });
  return result;
};
const countOf = (received) => received.transportObj.message_annotations['iothub-deliverycount'];

let client = await arrive();
await service.open();
const feedback = new Mailbox();
const { result: receiver } = await service.getFeedbackReceiver();
receiver.on('message', ({ data }) => JSON.parse(data.toString()).forEach((record) => feedback.put(record)));

const event = new device.Message(JSON.stringify({ battery: 71 }));
event.messageId = 'event-1';
say({ telemetry: (await client.sendEvent(event)).constructor.name });

// Messages: completed; abandoned, handed out again and completed; rejected.
const inbox = new Mailbox();
client.on('message', (received) => inbox.put(received));
const got = [];
const take = async (answer) => {
  const received = await inbox.next();
  const { messageId, properties } = received;
  const colour = properties.getValue('colour');
  got.push({ messageId, body: received.getBytes().toString(), colour, count: countOf(received) });
  await client[answer](received);
};
await service.send(deviceId, message('c2d-1', 'Grüß Gott'));
await take('complete');
await service.send(deviceId, message('c2d-2', '{"again":true}'));
await take('abandon');
await take('complete');
await service.send(deviceId, message('c2d-3', 'unwanted'));
await take('reject');
say({ messages: got });
const records = [await feedback.next(), await feedback.next(), await feedback.next()];
say({ feedback: records.map(({ originalMessageId, deviceId: of, statusCode }) => [originalMessageId, of, statusCode]) });

// Methods.
say({ offline: await codeOf(invoke('reboot', {})) });
client.onDeviceMethod('reboot', (request, response) => {
  response.send(207, { after: request.payload.delay, by: request.methodName }, () => {});
});
// The SDK attaches the links some time after onDeviceMethod and tells nobody: the first call says when.
const connect = { methodName: 'reboot', payload: { delay: 5 }, connectTimeoutInSeconds: 10 };
const { result: replied } = await caller.invokeDeviceMethod(deviceId, connect);
say({ method: { status: replied.status, payload: replied.payload } });
say({ unanswered: await errorOf(invoke('no-such-method', {})) });

// Twin: read, reported, and desired as they change.
const twin = await client.getTwin();
const { responseBody: before } = await registry.getTwin(deviceId);
const told = new Mailbox();
// The first one is the SDK's own object, which lives on.
twin.on('properties.desired', (patch) => told.put({ ...patch }));
const first = await told.next();
await before.update({ tags: { site: 'roof' }, properties: { desired: { interval: 60, limits: { high: 30 } } } });
const second = await told.next();
// Twin.update keeps the etag up, so that the next one fits.
await registry.updateTwin(deviceId, { properties: { desired: { limits: null } } }, before.etag);
const third = await told.next();
await new Promise((resolve, reject) => {
  twin.properties.reported.update({ battery: 71, mode: { eco: true } }, (error) => (error ? reject(error) : resolve()));
});
const { responseBody: after } = await registry.getTwin(deviceId);
say({ desired: [first, second, third] });
say({ twin: { tags: after.tags, desired: after.properties.desired, reported: after.properties.reported } });
say({ stale: await errorOf(registry.updateTwin(deviceId, { tags: {} }, before.etag.replace(/.$/, 'x'))) });

// It closes, misses a message and a change, and finds both when it comes again.
const closed = await client.close();
say({ closed: closed.constructor.name, gone: await codeOf(invoke('reboot', {})) });
await service.send(deviceId, message('c2d-4', 'while you were out'));
await registry.updateTwin(deviceId, { properties: { desired: { interval: 90 } } }, '*');
client = await arrive();
const later = new Mailbox();
client.on('message', (received) => later.put(received));
const missed = await later.next();
await client.complete(missed);
const { interval } = (await client.getTwin()).properties.desired;
say({ missed: { messageId: missed.messageId, interval, feedback: (await feedback.next()).statusCode } });
await client.close();

// What the sender is told of devices that do not take messages.
await registry.create({ deviceId: `${deviceId}-full` });
for (let sent = 0; sent < 50; sent += 1) await service.send(`${deviceId}-full`, message(`full-${sent}`, ''));
say({
  unknown: await errorOf(service.send('nobody-knows-me', message('lost', ''))),
  full: await errorOf(service.send(`${deviceId}-full`, message('full-50', ''))),
});
await service.close();
say({ webSockets: agent.connections });
process.exit(0);
