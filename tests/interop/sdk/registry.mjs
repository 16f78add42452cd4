// Microsoft's service SDK against the emulator's registry: creates, gets and deletes a device.
//
// usage: node registry.mjs READY.json DEVICE_ID, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import crypto from 'node:crypto';
import fs from 'node:fs';
import iothub from 'azure-iothub';
import { Redirect } from './redirect.mjs';

const ready = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const deviceId = process.argv[3];
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const errorOf = (promise) => promise.then(() => 'no error', (error) => error.constructor.name);
const key = () => crypto.randomBytes(32).toString('base64');

function registryOf(connectionString) {
  const made = iothub.Registry.fromConnectionString(connectionString);
  // The only way to another port than 443 is this private member.
  made._restApiClient.setOptions({ http: { agent: new Redirect(ready.httpsPort) } });
  return made;
}

const [hub] = ready.hubs;
const registry = registryOf(hub.serviceConnectionString);
const symmetricKey = { primaryKey: key(), secondaryKey: key() };
const device = { deviceId, status: 'enabled', authentication: { symmetricKey } };
const { responseBody: created } = await registry.create(device);
say({ created: { deviceId: created.deviceId, status: created.status } });
say({ again: await errorOf(registry.create(device)) });

const { responseBody: got } = await registry.get(deviceId);
say({ sameKey: got.authentication.symmetricKey.primaryKey === symmetricKey.primaryKey });

const { responseBody: bare } = await registry.create({ deviceId: `${deviceId}-bare` });
say({ keysMade: Buffer.from(bare.authentication.symmetricKey.primaryKey, 'base64').length >= 16 });

await registry.delete(deviceId);
say({ gone: await errorOf(registry.get(deviceId)) });

const stranger = registryOf(hub.serviceConnectionString.replace(/SharedAccessKey=.*$/, `SharedAccessKey=${key()}`));
say({ wrongKey: await errorOf(stranger.get(`${deviceId}-bare`)) });
process.exit(0);
