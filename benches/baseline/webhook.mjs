// A webhook of The Things Stack on Microsoft's device SDK: makes of each uplink the telemetry that tti-connector makes, and
// sends it over AMQP with TLS. Stores nothing, recognises no repeat, keeps no order on failure. The SDK opens a connection
// for each device; it cannot share one.
//
// usage: node webhook.mjs PORT HUB_HOST[:AMQP_PORT] accepted|at-once
// NODE_EXTRA_CA_CERTS names the hub's CA. Each device's key is the HMAC-SHA256 of its id under "bench".

import { createHash, createHmac } from 'node:crypto';
import http from 'node:http';
import device from 'azure-iot-device';
import { Amqp } from 'azure-iot-device-amqp';

const [port, host, when] = process.argv.slice(2);
const atOnce = when === 'at-once';
const clients = new Map();

/** The device's client, opened at its first uplink. */
function client(deviceId) {
  let opening = clients.get(deviceId);
  if (opening === undefined) {
    const key = createHmac('sha256', 'bench').update(deviceId).digest('base64');
    const text = `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${key}`;
    const made = device.Client.fromConnectionString(text, Amqp);
    made.on('error', () => clients.delete(deviceId));
    opening = made.open().then(() => made);
    opening.catch(() => clients.delete(deviceId));
    clients.set(deviceId, opening);
  }
  return opening;
}

/** The gateway that heard it best. */
function best(metadata) {
  let found;
  for (const reception of metadata ?? []) {
    if (found === undefined || reception.snr > found.snr) found = reception;
  }
  return found;
}

function telemetry(uplink) {
  const { end_device_ids: ids, uplink_message: message } = uplink;
  const created = new Date(uplink.received_at).toISOString();
  const gateway = best(message.rx_metadata);
  const made = new device.Message(
    JSON.stringify({
      ApplicationID: ids.application_ids.application_id,
      DeviceID: ids.device_id,
      DeviceEUI: ids.dev_eui,
      Port: message.f_port,
      Simulated: uplink.simulated ?? false,
      ReceivedAtUtc: created,
      PayloadRaw: message.frm_payload ?? '',
      PayloadDecoded: message.decoded_payload,
      FrameCounter: message.f_cnt ?? 0,
      Rssi: gateway?.rssi,
      Snr: gateway?.snr,
      GatewayID: gateway?.gateway_ids.gateway_id,
    }),
  );
  const id = `${ids.device_id}\0${message.session_key_id}\0${message.f_cnt ?? 0}`;
  made.messageId = createHash('sha256').update(id).digest('hex').slice(0, 32);
  made.contentType = 'application/json';
  made.contentEncoding = 'utf-8';
  made.properties.add('iothub-creation-time-utc', created);
  made.properties.add('ApplicationId', ids.application_ids.application_id);
  made.properties.add('DeviceEUI', ids.dev_eui);
  made.properties.add('DeviceId', ids.device_id);
  made.properties.add('port', String(message.f_port));
  made.properties.add('Simulated', uplink.simulated ? 'True' : 'False');
  return made;
}

async function forward(text) {
  const uplink = JSON.parse(text);
  const sending = await client(uplink.end_device_ids.device_id);
  await sending.sendEvent(telemetry(uplink));
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const answer = (status) => response.writeHead(status, { 'content-length': 0 }).end();
    const forwarding = forward(Buffer.concat(chunks).toString());
    if (atOnce) {
      answer(202);
      forwarding.catch((error) => console.error(error.message));
    } else {
      forwarding.then(
        () => answer(202),
        (error) => {
          console.error(error.message);
          answer(503);
        },
      );
    }
  });
});
server.keepAliveTimeout = 600_000;
server.listen(Number(port), '127.0.0.1');
