// Microsoft's provisioning SDK over HTTP against the emulator's DPS: registers with a key derived from the group's, then
// sends as that device to the hub it was assigned.
//
// usage: node provision.mjs READY.json REGISTRATION_ID, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import crypto from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import common from 'azure-iot-common';
import device from 'azure-iot-device';
import deviceAmqp from 'azure-iot-device-amqp';
import provisioning from 'azure-iot-provisioning-device';
import provisioningHttp from 'azure-iot-provisioning-device-http';
import security from 'azure-iot-security-symmetric-key';
import { Redirect } from './redirect.mjs';

const ready = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const registrationId = process.argv[3];
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
// This SDK offers no agent option: it uses Node's global one.
https.globalAgent = new Redirect(ready.httpsPort);

function derived(groupKey) {
  return crypto.createHmac('sha256', Buffer.from(groupKey, 'base64')).update(registrationId).digest('base64');
}

function register(key) {
  const credentials = new security.SymmetricKeySecurityClient(registrationId, key);
  const [host] = ready.dpsEndpoint.split(':');
  return provisioning.ProvisioningDeviceClient
    .create(host, ready.idScope, new provisioningHttp.Http(), credentials)
    .register();
}

async function send(host, deviceId, key) {
  const { amqpPort } = ready.hubs.find((hub) => hub.hostName === host);
  const client = device.Client.fromConnectionString(
    `HostName=${host}:${amqpPort};DeviceId=${deviceId};SharedAccessKey=${key}`, deviceAmqp.Amqp);
  client.setRetryPolicy(new common.NoRetry());
  await client.open();
  const result = await client.sendEvent(new device.Message('{}'));
  await client.close();
  return result.constructor.name;
}

const key = derived(ready.groupEnrollmentKey);
const result = await register(key);
say({ assigned: { hub: result.assignedHub, device: result.deviceId } });
say({ sent: await send(result.assignedHub, result.deviceId, key) });
say({
  refused: await register(derived(crypto.randomBytes(32).toString('base64'))).then(
    () => 'was let in',
    (error) => error.constructor.name,
  ),
});
process.exit(0);
